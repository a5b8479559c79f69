package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// After power loss the marks of partial blobs are not believed.
func TestAnotherBootVerifiesAgain(t *testing.T) {
	f := crashFixtures()[7] // 4 pieces
	right := func(d digest.Digest, size int64, runs [][]byte) func(int) (piece.Hash, bool) {
		if d != f.digest || size != int64(len(f.content)) || len(runs) != 1 || string(runs[0]) != "a run" {
			t.Errorf("asked for %v, %d, %q", d, size, runs)
		}
		return func(i int) (piece.Hash, bool) { return piece.Sum(f.piece(i)), i != 2 }
	}
	cases := map[string]struct {
		boot   string
		verify func(digest.Digest, int64, [][]byte) func(int) (piece.Hash, bool)
		spoil  bool
		want   []int
	}{
		"same boot":       {"boot 1", nil, false, []int{0, 1, 2}},
		"other boot":      {"boot 2", right, false, []int{0, 1}},
		"lost bytes":      {"boot 2", right, true, []int{1}},
		"no verifier":     {"boot 2", nil, false, nil},
		"no known hashes": {"boot 2", func(digest.Digest, int64, [][]byte) func(int) (piece.Hash, bool) { return nil }, false, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leave(t, dir, f, store.Options{BootID: "boot 1"}, 0, 1, 2)
			leave(t, dir, crashFixtures()[0], store.Options{BootID: "boot 1"})
			if c.spoil {
				w, err := os.OpenFile(filepath.Join(blobPath(dir, f.digest), "data.part"), os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				w.WriteAt(make([]byte, 4096), 8192)
				w.Close()
			}
			for range 2 { // the second time it is the same boot
				s := open(t, dir, store.Options{BootID: c.boot, Verify: c.verify})
				b, err := s.Blob(f.digest)
				if err != nil {
					t.Fatal(err)
				}
				if got := slices.Collect(b.Have().All()); !slices.Equal(got, c.want) {
					t.Fatalf("have %v, want %v", got, c.want)
				}
				b.Release()
				i, err := s.Stat(crashFixtures()[0].digest)
				if err != nil || !i.Complete {
					t.Fatalf("complete blob: %+v, %v", i, err)
				}
				s.Close()
				c.verify = nil
			}
		})
	}
}

// Damage that only power loss or a person can do.
func TestDamagedBlobs(t *testing.T) {
	f := crashFixtures()[7]
	write := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	truncate := func(name string, n int64) func(string) error {
		return func(dir string) error { return os.Truncate(filepath.Join(dir, name), n) }
	}
	other := fmt.Sprintf(`{"version":1,"digest":%q,"size":%d}`, digest.FromString("other"), len(f.content))
	cases := map[string]struct {
		complete bool
		spoil    func(dir string) error
		want     string // "complete", "gone", or the pieces had
	}{
		"complete, no meta":         {true, remove("meta"), "complete"},
		"complete, torn meta":       {true, truncate("meta", 10), "complete"},
		"complete, another's meta":  {true, write("meta", other), "complete"},
		"complete, short":           {true, truncate("data", 1000), "gone"},
		"complete, short, no meta":  {true, func(dir string) error { return errors.Join(remove("meta")(dir), truncate("data", 1000)(dir)) }, "gone"},
		"complete, leftover pieces": {true, write("pieces", "vvvv"), "complete"},
		"complete, temporary":       {true, write(".meta.tmp", "x"), "complete"},
		"partial, no meta":          {false, remove("meta"), "gone"},
		"partial, empty meta":       {false, truncate("meta", 0), "gone"},
		"partial, another's meta":   {false, write("meta", other), "gone"},
		"partial, newer meta":       {false, write("meta", `{"version":2}`), "gone"},
		"partial, absurd size":      {false, write("meta", fmt.Sprintf(`{"version":1,"digest":%q,"size":-5}`, f.digest)), "gone"},
		"partial, no content":       {false, remove("data.part"), "gone"},
		"partial, short content":    {false, truncate("data.part", piece.MinSize), "[0]"},
		"partial, no pieces":        {false, remove("pieces"), "[]"},
		"partial, short pieces":     {false, truncate("pieces", 1), "[0]"},
		"partial, long pieces":      {false, write("pieces", "v\x00v\x00vvvv"), "[0 2]"},
		"partial, unknown marks":    {false, write("pieces", "v?v!"), "[0 2]"},
		"partial, torn runs":        {false, truncate("runs", 20), "[0 2]"},
		"empty directory":           {false, func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) }, "gone"},
	}
	o := store.Options{BootID: "b", Verify: func(digest.Digest, int64, [][]byte) func(int) (piece.Hash, bool) {
		return func(i int) (piece.Hash, bool) { return piece.Sum(f.piece(i)), true }
	}}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.complete {
				leave(t, dir, f, o)
			} else {
				leave(t, dir, f, o, 0, 2)
			}
			if err := c.spoil(blobPath(dir, f.digest)); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, o)
			got := "gone"
			if b, err := s.Blob(f.digest); err == nil {
				if got = "complete"; !b.Complete() {
					got = fmt.Sprint(slices.Collect(b.Have().All()))
				}
				b.Release()
			}
			if got != c.want {
				t.Errorf("is %s, want %s", got, c.want)
			}
			if err := noLeftovers(dir); err != nil {
				t.Error(err)
			}
			// Whatever was found, the blob can be had whole.
			if err := s.Put(f.digest, f.content, store.Meta{}); err != nil {
				t.Error(err)
			}
			if got := s.Usage().Used; got != int64(len(f.content)) {
				t.Errorf("%d bytes accounted for", got)
			}
		})
	}
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	leave(t, dir, crashFixtures()[0], store.Options{})
	strange := []string{"README", "blobs/sha256/zz/file", "blobs/sha256/ab/not-a-digest/data", "blobs/md5/ab/x/data"}
	for _, name := range strange {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if u := open(t, dir, store.Options{}).Usage(); u.Blobs != 1 || u.Partial != 0 {
		t.Errorf("usage is %+v", u)
	}
	for _, name := range strange {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
