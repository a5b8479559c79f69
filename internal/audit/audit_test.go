package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// at is a clock that stands.
func at() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func open(t *testing.T, file string, size int64, keep int) *Log {
	t.Helper()
	l, err := Open(Options{File: file, Size: size, Keep: keep, Now: at})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// write makes a log of n lines.
func write(t *testing.T, file string, n int) {
	t.Helper()
	l := open(t, file, 0, 0)
	for i := range n {
		l.Record(Event{User: "alice", Action: "push", Repository: fmt.Sprintf("team/app%d", i), Digest: "sha256:00", Outcome: "allowed", Status: 201})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func logFile(t *testing.T) string { return filepath.Join(t.TempDir(), "audit", "audit.log") }

func TestChainGoesOnAfterARestart(t *testing.T) {
	file := logFile(t)
	write(t, file, 3)
	write(t, file, 2)
	s, err := Verify([]string{file}, Anchor{})
	if err != nil || s.First != 1 || s.Last != 5 || len(s.Head) != 64 {
		t.Fatalf("%+v %v", s, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"seq":1,"time":"2026-01-02T03:04:05Z","user":"alice","action":"push","repository":"team/app0","digest":"sha256:00","outcome":"allowed","status":201,"prev":"","hash":"`
	if !bytes.HasPrefix(content, []byte(want)) {
		t.Errorf("the first line is %s", content[:300])
	}
}

// No client makes a line that breaks the chain, or that the next start would not
// go on from.
func TestLongTextsAreCut(t *testing.T) {
	file := logFile(t)
	l := open(t, file, 0, 0)
	long := strings.Repeat("&", maxLine) // six bytes each, in JSON
	l.Record(Event{User: long, Auth: long, Client: long, Action: long, Method: long, Repository: long, Reference: long, Digest: long, Outcome: long, Note: long})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, file, 1)
	if s, err := Verify([]string{file}, Anchor{}); err != nil || s.Last != 2 {
		t.Errorf("%+v %v", s, err)
	}
}

// Whatever is done to a file but to its end shows, and where.
func TestVerifyFindsTheFirstBrokenLine(t *testing.T) {
	file := logFile(t)
	write(t, file, 5)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte{'\n'})[:5]
	join := func(ls ...[]byte) []byte { return bytes.Join(ls, nil) }
	// A line that was changed, with a hash that fits.
	e, _, err := parse(bytes.TrimSuffix(lines[2], []byte{'\n'}))
	if err != nil {
		t.Fatal(err)
	}
	e.User = "mallory"
	forged, _, err := seal(e)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content []byte
		line    int // that is named; 0 for none
	}{
		"whole":              {good, 0},
		"no end":             {join(lines[:4]...), 0}, // shows against a kept head only
		"no beginning":       {join(lines[1:]...), 0}, // may be in an older file
		"removed":            {join(lines[0], lines[1], lines[3], lines[4]), 3},
		"twice":              {join(lines[0], lines[1], lines[1], lines[2]), 3},
		"moved":              {join(lines[0], lines[2], lines[1]), 2},
		"changed":            {bytes.Replace(good, []byte("team/app2"), []byte("team/app9"), 1), 3},
		"forged":             {join(lines[0], lines[1], forged, lines[3]), 4},
		"other hash":         {bytes.Replace(good, lines[1][len(lines[1])-20:], append([]byte("00000000000000000"), "\"}\n"...), 1), 2},
		"cut in the middle":  {join(lines[0], lines[1][:40], lines[2]), 2},
		"a line of the user": {join(lines[0], []byte("hello\n"), lines[1]), 2},
		"cut at the end":     {good[:len(good)-5], 0}, // is being written
	} {
		if err := os.WriteFile(file, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Verify([]string{file}, Anchor{})
		var b *Broken
		if c.line == 0 && err != nil || c.line > 0 && (!errors.As(err, &b) || b.Line != c.line || b.File != file) {
			t.Errorf("%s: %v, want line %d", name, err, c.line)
		}
	}
}

// No byte but of the last line's end can be changed without notice.
func TestEveryByteCounts(t *testing.T) {
	file := logFile(t)
	write(t, file, 2)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(good) - 1 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify([]string{file}, Anchor{}); err == nil {
			t.Fatalf("byte %d (%q) can be changed", i, good[i])
		}
	}
}

func TestRotationKeepsTheChain(t *testing.T) {
	file := logFile(t)
	l := open(t, file, 1000, 0)
	for i := range 20 {
		l.Record(Event{Action: "pull", Repository: fmt.Sprint(i), Outcome: "allowed"})
	}
	l.Close()
	old, err := Older(file)
	if err != nil || len(old) < 3 {
		t.Fatalf("%v %v", old, err)
	}
	files := append([]string{file}, old...)
	s, err := Verify(files, Anchor{})
	if err != nil || s.First != 1 || s.Last != 20 {
		t.Fatalf("%+v %v", s, err)
	}
	if _, err := Verify(append(files[:2:2], files[3:]...), Anchor{}); err == nil {
		t.Error("a file that is missing in the middle does not show")
	}
	// A crash between the two renames leaves no file; the chain goes on.
	if err := os.Rename(file, fmt.Sprintf("%s.%012d", file, 20)); err != nil {
		t.Fatal(err)
	}
	l = open(t, file, 1000, 2)
	for i := range 20 {
		l.Record(Event{Action: "pull", Repository: fmt.Sprint(i), Outcome: "allowed"})
	}
	l.Close()
	if old, err = Older(file); err != nil || len(old) != 2 {
		t.Fatalf("%v %v", old, err)
	}
	if s, err = Verify(append(old, file), Anchor{}); err != nil || s.Last != 40 || s.First == 1 {
		t.Fatalf("%+v %v", s, err)
	}
}

// A line that was not written whole is removed, and that is said.
func TestTornLine(t *testing.T) {
	for _, keep := range []int{0, 1} { // whole lines before it
		file := logFile(t)
		write(t, file, keep+1)
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content[:len(content)-7], 0o600); err != nil {
			t.Fatal(err)
		}
		write(t, file, 1)
		if s, err := Verify([]string{file}, Anchor{}); err != nil || s.Last != uint64(keep+2) {
			t.Fatalf("%+v %v", s, err)
		}
		content, err = os.ReadFile(file)
		if err != nil || !strings.Contains(string(content), `"action":"repair"`) {
			t.Fatalf("%v: %s", err, content)
		}
	}
}

func TestNothingIsAddedToABrokenChain(t *testing.T) {
	file := logFile(t)
	write(t, file, 2)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Replace(content, []byte("team/app1"), []byte("team/app7"), 1)
	if err := os.WriteFile(file, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{File: file}); err == nil || !strings.Contains(err.Error(), "move the file away") {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(file); !bytes.Equal(after, bad) {
		t.Error("the file was changed")
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 3*maxLine), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{File: file}); err == nil {
		t.Fatal("something else than a log is taken for one")
	}
}

func TestManyWriters(t *testing.T) {
	file := logFile(t)
	l := open(t, file, 20_000, 0)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for range 50 {
				l.Record(Event{User: fmt.Sprint(w), Action: "pull", Outcome: "allowed"})
			}
		})
	}
	wg.Wait()
	l.Close()
	l.Record(Event{}) // after the end: lost, and no crash
	old, err := Older(file)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Verify(append(old, file), Anchor{}); err != nil || s.Last != 400 {
		t.Fatalf("%+v %v", s, err)
	}
}

func FuzzParse(f *testing.F) {
	line, _, err := seal(Event{Seq: 7, Time: at(), Action: "pull", Outcome: "allowed"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line[:len(line)-1])
	f.Add([]byte(`{"seq":1,"hash":""}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, hash, err := parse(line)
		if err == nil && (e.Seq == 0 || len(hash) != 64) {
			t.Fatalf("%s gives %+v", line, e)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	l, err := Open(Options{File: filepath.Join(b.TempDir(), "audit.log")})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		l.Record(Event{User: "alice", Action: "pull", Repository: "docker.io/library/nginx", Reference: "latest", Outcome: "allowed", Status: 200})
	}
}
