package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// TestCrashPoints looks at every step in between: at each, the directory is
// copied as a process killed there would leave it, and the copy is checked.
func TestCrashPoints(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	blobs := crashFixtures()
	var p promises
	seen := make(map[string]int)
	s.OnStep(func(step string) {
		if seen[step]++; seen[step] > 3 {
			return
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		c, err := store.Open(copied, store.Options{})
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if _, _, err = p.kept(c, blobs); err == nil {
			err = errors.Join(c.Close(), noLeftovers(copied))
		}
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for k := 3; k < 6; k++ {
		f := blobs[k]
		b, err := s.Create(f.digest, int64(len(f.content)))
		check(err)
		for i := range f.g.Count() {
			_, err := b.WritePiece(i, f.piece(i))
			check(err)
			check(p.hear(fmt.Sprintf("piece %d %d", k, i)))
		}
		check(b.SetRuns([][]byte{[]byte("0")}))
		check(p.hear(fmt.Sprintf("runs %d 1", k)))
		check(p.hear(fmt.Sprintf("dropping %d", k)))
		check(b.Discard())
		for i := range f.g.Count() {
			_, err := b.WriteRaw(i, f.piece(i), i == 0)
			check(err)
			check(p.hear(fmt.Sprintf("piece %d %d", k, i)))
			if i > 0 {
				_, err := b.Confirm(i, piece.Sum(f.piece(i)))
				check(err)
			}
		}
		check(b.Commit(true))
		check(p.hear(fmt.Sprintf("complete %d", k)))
		b.Release()
	}
	check(s.Cache(blobs[6].digest, blobs[6].content))
	check(p.hear("complete 6"))
	check(s.Put(blobs[6].digest, blobs[6].content, store.Meta{}))
	check(p.hear("complete 6"))
	upload := filepath.Join(t.TempDir(), "upload")
	check(os.WriteFile(upload, blobs[7].content, 0o600))
	check(s.Adopt(blobs[7].digest, upload, store.Meta{}))
	check(p.hear("complete 7"))
	check(p.hear("dropping 3"))
	check(os.Remove(blobFile(dir, blobs[3].digest, "data")))
	if _, err := s.Check(blobs[3].digest, atOnce); !errors.Is(err, store.ErrDamaged) {
		t.Fatal(err)
	}
	check(s.Put(blobs[3].digest, blobs[3].content, store.Meta{}))
	check(p.hear("complete 3"))
	check(p.hear("dropping 4"))
	check(s.Delete(blobs[4].digest))
	want := []string{
		"create: directory made", "create: pieces made", "create: content made", "create: meta made", "write: bytes written", "write: marked",
		"commit: flushed", "commit: renamed", "commit: pieces removed", "discard: new content made", "discard: marks cleared",
		"discard: content replaced", "delete: in the trash",
		"adopt: meta made", "adopt: content moved", "cache: content written", "unfold: meta made", "unfold: content moved",
		"damage: pieces saved", "damage: set aside",
	}
	for _, step := range want {
		if seen[step] == 0 {
			t.Errorf("step %q was not passed", step)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("steps passed: %v", seen)
	}
}
