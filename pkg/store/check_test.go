package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

func atOnce(int) error { return nil }

// signed is a store whose runs tell the hash of each piece but those of odd
// number above 2, as if their signature had been lost.
func signed(t *testing.T, dir string, blobs ...crashBlob) *store.Store {
	t.Helper()
	return open(t, dir, store.Options{Now: func() time.Time { return time.Date(2026, 1, 1, 0, int(minutes.Add(1)), 0, 0, time.UTC) },
		Verify: func(d digest.Digest, _ int64, runs [][]byte) func(int) (piece.Hash, bool) {
			for _, f := range blobs {
				if f.digest == d && len(runs) > 0 {
					return func(i int) (piece.Hash, bool) { return piece.Sum(f.piece(i)), i <= 2 || i%2 == 0 }
				}
			}
			return nil
		}})
}

// whole stores a blob with runs, unpinned.
func whole(t *testing.T, s *store.Store, f crashBlob, kept bool) {
	t.Helper()
	b, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	for i := range f.g.Count() {
		if _, err = b.WritePiece(i, f.piece(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.SetRuns([][]byte{[]byte("run")}), b.SetMeta(store.Meta{MediaType: "x"}), b.Commit(true), b.Keep(kept)); err != nil {
		t.Fatal(err)
	}
}

func blobFile(dir string, d digest.Digest, name string) string {
	return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), name)
}

// rot changes one byte of a file, as a disk would.
func rot(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := []byte{0}
	if _, err = f.ReadAt(p, at); err == nil {
		p[0] ^= 4
		_, err = f.WriteAt(p, at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mustHave reads the blob whole.
func mustHave(t *testing.T, s *store.Store, f crashBlob) {
	t.Helper()
	file, in, err := s.Peek(f.digest)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, f.content) || in.Damaged || !in.Complete {
		t.Fatalf("%d bytes, %v, %+v", len(got), err, in)
	}
}

func TestCheckGood(t *testing.T) {
	dir := t.TempDir()
	s := signed(t, dir)
	large, small, partial := crashFixture(9000, 3<<20+11), crashFixture(9001, 100), crashFixture(9002, 3*piece.MinSize)
	whole(t, s, large, false)
	if err := s.Cache(small.digest, small.content); err != nil {
		t.Fatal(err)
	}
	b, err := s.Create(partial.digest, int64(len(partial.content)))
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	was, _ := s.Stat(large.digest)
	for _, f := range []crashBlob{large, small} {
		asked := 0
		read, err := s.Check(f.digest, func(n int) error { asked += n; return nil })
		if err != nil || read != int64(len(f.content)) || asked != len(f.content) {
			t.Errorf("read %d bytes, paced %d: %v", read, asked, err)
		}
		mustHave(t, s, f)
	}
	if is, _ := s.Stat(large.digest); !is.LastUse.Equal(was.LastUse) {
		t.Error("to be checked counted as a use")
	}
	if err := s.Accounts(); err != nil {
		t.Error(err)
	}
	for _, d := range []digest.Digest{partial.digest, digest.FromString("nothing here")} {
		if read, err := s.Check(d, atOnce); err != nil || read != 0 {
			t.Errorf("read %d bytes of what is not there: %v", read, err)
		}
	}
	stop := errors.New("stop")
	if _, err := s.Check(large.digest, func(int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error is %v", err)
	}
	mustHave(t, s, large)
}

// TestCheckMeta: a meta file that rots does not cost the blob.
func TestCheckMeta(t *testing.T) {
	dir := t.TempDir()
	s := signed(t, dir)
	f := crashFixture(9003, 5000)
	whole(t, s, f, true)
	meta := blobFile(dir, f.digest, "meta")
	want, _ := os.ReadFile(meta)
	for _, spoil := range []func(){func() { rot(t, meta, 3) }, func() { os.Remove(meta) }} {
		spoil()
		if _, err := s.Check(f.digest, atOnce); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(meta); err != nil || !bytes.Equal(got, want) {
			t.Errorf("meta is %q: %v", got, err)
		}
	}
}

func TestCheckDamaged(t *testing.T) {
	dir := t.TempDir()
	f := crashFixture(9010, 6*piece.MinSize-7)
	s := signed(t, dir, f)
	whole(t, s, f, false)
	h, err := s.Blob(f.digest)
	if err != nil {
		t.Fatal(err)
	}
	begun := h.NewReader(context.Background(), store.ReadOptions{})
	defer begun.Close()
	if _, err := begun.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	rot(t, blobFile(dir, f.digest, "data"), 4*piece.MinSize+99)
	if _, err := s.Check(f.digest, atOnce); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("error is %v", err)
	}
	check := func(s *store.Store, h *store.Blob) {
		t.Helper()
		in, err := s.Stat(f.digest)
		if err != nil || !in.Damaged || in.Complete || s.Usage().Damaged != 1 || s.Usage().Blobs != 0 {
			t.Errorf("%+v, %+v: %v", in, s.Usage(), err)
		}
		if _, err := h.File(); !errors.Is(err, store.ErrNotHeld) || !errors.Is(err, store.ErrDamaged) {
			t.Errorf("the file: %v", err)
		}
		if _, _, err := s.Peek(f.digest); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("a peek: %v", err)
		}
		for i := range f.g.Count() { // 4 rotted, the hashes of 3 and 5 are not known
			got, err := h.ReadPiece(i, nil)
			if i < 3 && (err != nil || !bytes.Equal(got, f.piece(i))) || i >= 3 && !errors.Is(err, store.ErrNotHeld) {
				t.Errorf("piece %d: %v", i, err)
			}
		}
		if err := s.Accounts(); err != nil {
			t.Error(err)
		}
	}
	check(s, h)
	if _, err := io.Copy(io.Discard, begun); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("who had begun to read goes on: %v", err)
	}
	if fi, err := os.Stat(blobFile(dir, f.digest, "damaged")); err != nil || fi.Size() != 0 {
		t.Errorf("the mark: %v", err)
	}
	h.Release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = signed(t, dir, f)
	if h, err = s.Blob(f.digest); err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	check(s, h)
	if read, err := s.Check(f.digest, atOnce); read != 0 || err != nil {
		t.Errorf("checked once more: %d, %v", read, err)
	}
	for i := 3; i < f.g.Count(); i++ {
		if fresh, err := h.WritePiece(i, f.piece(i)); err != nil || !fresh {
			t.Fatalf("piece %d: %v", i, err)
		}
	}
	if err := h.Commit(true); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, f)
	if _, err := os.Stat(blobFile(dir, f.digest, "damaged")); !os.IsNotExist(err) || s.Usage().Damaged != 0 {
		t.Errorf("the mark is there still: %v", err)
	}
	if err := s.Accounts(); err != nil {
		t.Error(err)
	}
}

// TestCheckKept: what was pushed stays, is kept apart, and is mended by a push.
func TestCheckKept(t *testing.T) {
	for name, mend := range map[string]func(*store.Store, crashBlob, string) error{
		"adopt": func(s *store.Store, f crashBlob, dir string) error {
			path := filepath.Join(dir, "..", "upload")
			return errors.Join(os.WriteFile(path, f.content, 0o600), s.Adopt(f.digest, path, store.Meta{}))
		},
		"put": func(s *store.Store, f crashBlob, _ string) error { return s.Put(f.digest, f.content, store.Meta{}) },
	} {
		for what, spoil := range map[string]func(path string) error{
			"rotten":  func(path string) error { rot(t, path, 100); return nil },
			"cut":     func(path string) error { return os.Truncate(path, 300) },
			"longer":  func(path string) error { return os.Truncate(path, 1<<20) },
			"missing": os.Remove,
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "store")
				s := signed(t, dir)
				f := crashFixture(9020, 2*piece.MinSize)
				whole(t, s, f, true)
				if err := spoil(blobFile(dir, f.digest, "data")); err != nil {
					t.Fatal(err)
				}
				left, _ := os.ReadFile(blobFile(dir, f.digest, "data"))
				if _, err := s.Check(f.digest, atOnce); !errors.Is(err, store.ErrDamaged) {
					t.Fatalf("error is %v", err)
				}
				if aside, err := os.ReadFile(blobFile(dir, f.digest, "damaged")); err != nil || !bytes.Equal(aside, left) {
					t.Errorf("%d bytes were set aside of %d: %v", len(aside), len(left), err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = signed(t, dir)
				if in, err := s.Stat(f.digest); err != nil || !in.Kept || !in.Damaged || in.Meta.MediaType != "x" {
					t.Fatalf("%+v: %v", in, err)
				}
				if err := mend(s, f, dir); err != nil {
					t.Fatal(err)
				}
				mustHave(t, s, f)
				if in, _ := s.Stat(f.digest); !in.Kept {
					t.Error("it is kept no more")
				}
				if _, err := os.Stat(blobFile(dir, f.digest, "damaged")); !os.IsNotExist(err) {
					t.Errorf("what was set aside is there still: %v", err)
				}
			})
		}
	}
}

func TestCheckCached(t *testing.T) {
	dir := t.TempDir()
	s := signed(t, dir)
	f := crashFixture(9030, 900)
	if err := s.Cache(f.digest, f.content); err != nil {
		t.Fatal(err)
	}
	rot(t, filepath.Join(dir, "small", "sha256", f.digest.Encoded()), 8)
	if _, err := s.Check(f.digest, atOnce); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("error is %v", err)
	}
	if _, err := s.Stat(f.digest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
	if err := errors.Join(s.Accounts(), s.Cache(f.digest, f.content)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, f)
}

// TestOpenDamaged: content that has the wrong size at the start is dropped, or
// set aside where it is kept.
func TestOpenDamaged(t *testing.T) {
	dir := t.TempDir()
	s := signed(t, dir)
	kept, other := crashFixture(9040, 2*piece.MinSize), crashFixture(9041, 2*piece.MinSize)
	whole(t, s, kept, true)
	whole(t, s, other, false)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []crashBlob{kept, other} {
		if err := os.Truncate(blobFile(dir, f.digest, "data"), 77); err != nil {
			t.Fatal(err)
		}
	}
	s = signed(t, dir)
	if in, err := s.Stat(kept.digest); err != nil || !in.Damaged || !in.Kept || in.Size != 2*piece.MinSize || in.Have != 0 {
		t.Errorf("%+v: %v", in, err)
	}
	if _, err := s.Stat(other.digest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
	if err := errors.Join(s.Accounts(), s.Put(kept.digest, kept.content, store.Meta{})); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, kept)
}

// TestWrongSizeGivesWay: whoever names a digest with another size, and fetches
// nothing, does not stand in the way of the content.
func TestWrongSizeGivesWay(t *testing.T) {
	for name, store1 := range map[string]func(*store.Store, crashBlob) error{
		"adopt": func(s *store.Store, f crashBlob) error {
			path := filepath.Join(t.TempDir(), "upload")
			return errors.Join(os.WriteFile(path, f.content, 0o600), s.Adopt(f.digest, path, store.Meta{}))
		},
		"put":   func(s *store.Store, f crashBlob) error { return s.Put(f.digest, f.content, store.Meta{}) },
		"cache": func(s *store.Store, f crashBlob) error { return s.Cache(f.digest, f.content) },
	} {
		t.Run(name, func(t *testing.T) {
			s := signed(t, filepath.Join(t.TempDir(), "store"))
			f := crashFixture(9050, 1000)
			b, err := s.Create(f.digest, 999)
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
			if err := store1(s, f); err != nil {
				t.Fatal(err)
			}
			mustHave(t, s, f)
			if err := s.Accounts(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDamagedWithoutPart: a blob that was set aside is not forgotten where power
// was lost before the files of the partial one reached the disk.
func TestDamagedWithoutPart(t *testing.T) {
	dir := t.TempDir()
	s := signed(t, dir)
	f := crashFixture(9060, 2*piece.MinSize)
	whole(t, s, f, true)
	rot(t, blobFile(dir, f.digest, "data"), 5)
	if _, err := s.Check(f.digest, atOnce); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("error is %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data.part", "pieces"} {
		if err := os.Remove(blobFile(dir, f.digest, name)); err != nil {
			t.Fatal(err)
		}
		s = signed(t, dir)
		if in, err := s.Stat(f.digest); err != nil || !in.Damaged || !in.Kept || in.Have != 0 {
			t.Errorf("without %s: %+v: %v", name, in, err)
		}
		if err := errors.Join(s.Accounts(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	s = signed(t, dir)
	if err := s.Put(f.digest, f.content, store.Meta{}); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, f)
}

// TestCheckConcurrent: blobs are lost, found damaged, mended, read, cached and
// evicted all at once; whoever reads gets the right bytes or an error.
func TestCheckConcurrent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{Quota: 6 * piece.MinSize})
	var blobs []crashBlob
	for k := range 6 {
		blobs = append(blobs, crashFixture(uint64(9100+k), (k+1)*piece.MinSize/2))
	}
	const rounds = 150
	var g errgroup.Group
	for w := range 2 {
		g.Go(func() error { // reads
			for n := range rounds {
				f := blobs[(n*7+w)%len(blobs)]
				b, err := s.Blob(f.digest)
				if err != nil {
					continue
				}
				if b.Complete() {
					r := b.NewReader(t.Context(), store.ReadOptions{Stall: time.Millisecond})
					got, err := io.ReadAll(r)
					r.Close()
					if err == nil && !bytes.Equal(got, f.content) {
						b.Release()
						return fmt.Errorf("wrong bytes of blob %s", f.digest)
					}
				}
				b.Release()
			}
			return nil
		})
		g.Go(func() error { // stores
			for n := range rounds {
				f := blobs[(n*5+w)%len(blobs)]
				put := func() error { return s.Put(f.digest, f.content, store.Meta{}) }
				if n%3 == 0 {
					put = func() error { return s.Cache(f.digest, f.content) }
				}
				if err := put(); err != nil && !errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrNotFound) {
					return err
				}
			}
			return nil
		})
		g.Go(func() error { // loses, and checks
			for n := range rounds {
				f := blobs[(n*3+w)%len(blobs)]
				if n%4 == 0 {
					os.Remove(blobFile(dir, f.digest, "data"))
				}
				if _, err := s.Check(f.digest, atOnce); err != nil && !errors.Is(err, store.ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.Accounts(); err != nil {
		t.Error(err)
	}
	for _, f := range blobs[:3] {
		if _, err := s.Check(f.digest, atOnce); err != nil && !errors.Is(err, store.ErrDamaged) {
			t.Error(err)
		}
		if err := s.Put(f.digest, f.content, store.Meta{}); err != nil {
			t.Fatal(err)
		}
		mustHave(t, s, f)
	}
}
