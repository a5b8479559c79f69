package events

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func testQueue(t *testing.T, dir string, limit int64) *queue {
	t.Helper()
	q, err := openQueue(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if q.w != nil {
			_ = q.close()
		}
	})
	return q
}

func line(i int) []byte { return fmt.Appendf(nil, "line %06d\n", i) } // 12 bytes

func fill(t *testing.T, q *queue, from, to int) (dropped uint64) {
	t.Helper()
	for i := from; i < to; i++ {
		n, err := q.append(line(i))
		if err != nil {
			t.Fatal(err)
		}
		dropped += n
	}
	return dropped
}

// drain takes n at a time, and checks that they are lines from first on.
func drain(t *testing.T, q *queue, first, n, most int) (next int) {
	t.Helper()
	for next = first; next-first < most; {
		lines, last, err := q.peek(n)
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) == 0 {
			return next
		}
		size := int64(0)
		for _, l := range lines {
			if !bytes.Equal(l, line(next)) {
				t.Fatalf("%q, want line %d", l, next)
			}
			size += int64(len(l))
			next++
		}
		if err := q.done(last, size); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

func TestQueueKeepsTheOrder(t *testing.T) {
	dir := t.TempDir()
	for _, batch := range []int{1, 7} {
		q := testQueue(t, filepath.Join(dir, fmt.Sprint(batch)), 16*1200) // 100 lines in a segment
		fill(t, q, 0, 450)
		next := drain(t, q, 0, batch, 130)
		for range 3 { // a restart goes on where the last one stopped
			if err := q.close(); err != nil {
				t.Fatal(err)
			}
			q = testQueue(t, q.dir, q.limit)
			if n, size := q.pending(); n != uint64(450-next) || size != int64(12*(450-next)) {
				t.Fatalf("%d lines of %d bytes are left, want %d", n, size, 450-next)
			}
			next = drain(t, q, next, batch, 50)
		}
		fill(t, q, 450, 500)
		if next = drain(t, q, next, batch, 1000); next != 500 {
			t.Errorf("%d lines came out, want 500", next)
		}
		if n, size := q.pending(); n != 0 || size != 0 {
			t.Errorf("%d lines of %d bytes are left", n, size)
		}
		if files, _ := filepath.Glob(filepath.Join(q.dir, "*"+segmentSuffix)); len(files) != 1 {
			t.Errorf("files %v are left, want the last", files)
		}
	}
}

// A line that was not written whole was promised to nobody.
func TestQueueAfterACrash(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, q *queue){
		"torn line": func(t *testing.T, q *queue) { write(t, q.path(1), os.O_APPEND, "line 0000") },
		"no cursor": func(t *testing.T, q *queue) { remove(t, filepath.Join(q.dir, cursorName)) },
		"wrong cursor": func(t *testing.T, q *queue) {
			write(t, filepath.Join(q.dir, cursorName), os.O_TRUNC, "nonsense")
		},
		"foreign file":   func(t *testing.T, q *queue) { write(t, filepath.Join(q.dir, "README"), os.O_CREATE, "x") },
		"cursor too far": func(t *testing.T, q *queue) { write(t, filepath.Join(q.dir, cursorName), os.O_TRUNC, "5000000\n") },
	} {
		t.Run(name, func(t *testing.T) {
			q := testQueue(t, t.TempDir(), 1<<20)
			fill(t, q, 0, 10)
			if name == "cursor too far" {
				drain(t, q, 0, 1, 10)
			}
			if err := q.close(); err != nil {
				t.Fatal(err)
			}
			harm(t, q)
			q = testQueue(t, q.dir, 1<<20)
			fill(t, q, 10, 20)
			first := 0
			if name == "cursor too far" {
				first = 10
			}
			if next := drain(t, q, first, 3, 100); next != 20 {
				t.Errorf("%d lines came out, want 20", next)
			}
		})
	}
}

func write(t *testing.T, path string, flag int, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|flag, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// A queue that is full drops the oldest, also one that is being delivered, and
// says how many.
func TestQueueDropsTheOldest(t *testing.T) {
	q := testQueue(t, t.TempDir(), 16*1200)
	fill(t, q, 0, 10)
	lines, last, err := q.peek(3)
	if err != nil || len(lines) != 3 {
		t.Fatal(lines, err)
	}
	dropped := fill(t, q, 10, 2000)
	if err := q.done(last, 36); err != nil {
		t.Fatal(err)
	}
	n, size := q.pending()
	if n+dropped != 2000 || size > q.limit || size < q.limit*3/4 {
		t.Errorf("%d of 2000 lines were dropped, %d of %d bytes are left", dropped, n, size)
	}
	if next := drain(t, q, int(dropped), 5, 5000); next != 2000 {
		t.Errorf("line %d came last", next-1)
	}
	if files, _ := filepath.Glob(filepath.Join(q.dir, "*"+segmentSuffix)); len(files) != 1 {
		t.Errorf("files %v are left", files)
	}
}

func TestQueueRefuses(t *testing.T) {
	q := testQueue(t, t.TempDir(), 1<<20)
	if _, err := q.append(bytes.Repeat([]byte("x"), maxLine+1)); err == nil {
		t.Error("a line too long is taken")
	}
	if err := q.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.append(line(1)); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	write(t, q.path(1), os.O_TRUNC, string(bytes.Repeat([]byte("x"), 2*maxLine)))
	if _, err := openQueue(q.dir, 1<<20); err == nil {
		t.Error("something else is taken for a file of events")
	}
}
