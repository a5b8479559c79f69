package store_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

// isWhole tells whether the blob is here with its bytes and its meta.
func isWhole(t *testing.T, s *store.Store, f crashBlob, m store.Meta) bool {
	t.Helper()
	b, err := s.Blob(f.digest)
	if errors.Is(err, store.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	file, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got, err := io.ReadAll(file)
	if err != nil || !bytes.Equal(got, f.content) {
		t.Fatalf("%d bytes, %v; want %d", len(got), err, len(f.content))
	}
	if got := b.Meta(); got.MediaType != m.MediaType || !slices.Equal(got.Sources, m.Sources) {
		t.Errorf("meta %+v, want %+v", got, m)
	}
	return true
}

// What is cached is there at once, for this process and the next. Where power
// may have been lost it is hashed once, and then believed.
func TestCache(t *testing.T) {
	f := crashFixtures()[1]
	for name, c := range map[string]struct {
		boot  string
		spoil bool // the content did not reach the disk
		short bool // some of it did
		want  bool
	}{
		"same boot":                    {boot: "boot 1", want: true},
		"other boot":                   {boot: "boot 2", want: true},
		"other boot, lost bytes":       {boot: "boot 2", spoil: true},
		"other boot, lost all of them": {boot: "boot 2", short: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, store.Options{BootID: "boot 1"})
			if err := s.Cache(f.digest, f.content); err != nil {
				t.Fatal(err)
			}
			if !isWhole(t, s, f, store.Meta{}) {
				t.Fatal("it is not there")
			}
			if got := s.Usage(); got.Used != int64(len(f.content)) || got.Promised != 0 || got.Blobs != 1 {
				t.Errorf("usage %+v", got)
			}
			s.Close()
			path := filepath.Join(dir, "small", "sha256", f.digest.Encoded())
			if c.spoil {
				if err := os.WriteFile(path, make([]byte, len(f.content)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.short {
				if err := os.Truncate(path, 0); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time it is the same boot
				s = open(t, dir, store.Options{BootID: c.boot})
				if got := isWhole(t, s, f, store.Meta{}); got != c.want {
					t.Errorf("there: %v, want %v", got, c.want)
				}
				if got := s.Usage(); (got.Blobs == 1) != c.want || (got.Used > 0) != c.want {
					t.Errorf("usage %+v", got)
				}
				s.Close()
			}
			fi, err := os.Stat(path)
			if !c.want {
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the file was left: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if proven := fi.Mode().Perm() == 0o400; proven != (c.boot != "boot 1") {
				t.Errorf("mode %s", fi.Mode())
			}
		})
	}
}

// A cached blob that is put, or learns where it is from, becomes a durable one;
// who reads it goes on.
func TestCacheThenPut(t *testing.T) {
	f, m := crashFixtures()[3], store.Meta{MediaType: "text/plain", Sources: []string{"a/b"}}
	for name, put := range map[string]func(*store.Store, *store.Blob) error{
		"put":      func(s *store.Store, _ *store.Blob) error { return s.Put(f.digest, f.content, m) },
		"set meta": func(_ *store.Store, b *store.Blob) error { return b.SetMeta(m) },
		"commit":   func(_ *store.Store, b *store.Blob) error { return errors.Join(b.Commit(false), b.SetMeta(m)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, store.Options{BootID: "boot 1"})
			if err := s.Cache(f.digest, f.content); err != nil {
				t.Fatal(err)
			}
			b, err := s.Blob(f.digest)
			if err != nil {
				t.Fatal(err)
			}
			if p, err := b.ReadPiece(0, nil); err != nil || !bytes.Equal(p, f.piece(0)) {
				t.Errorf("piece 0: %d bytes, %v", len(p), err)
			}
			if err := put(s, b); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if !isWhole(t, s, f, m) {
					t.Fatal("it is gone")
				}
				if err := b.Commit(false); err != nil {
					t.Error(err)
				}
			}
			if p, err := b.ReadPiece(1, nil); err != nil || !bytes.Equal(p, f.piece(1)) {
				t.Errorf("piece 1: %d bytes, %v", len(p), err)
			}
			b.Release()
			s.Close()
			if _, err := os.Stat(filepath.Join(blobPath(dir, f.digest), "meta")); err != nil {
				t.Error(err)
			}
			if !isWhole(t, open(t, dir, store.Options{BootID: "boot 2"}), f, m) {
				t.Error("it is gone after another boot")
			}
		})
	}
}

// Cache meets blobs that are here already, in part or whole, and the quota.
func TestCacheOfWhatIsHere(t *testing.T) {
	all := crashFixtures()
	f, other := all[3], all[4]
	s := open(t, t.TempDir(), store.Options{BootID: "b", Quota: int64(len(f.content) + len(all[1].content))})
	b, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Cache(f.digest, f.content); err != nil {
			t.Fatal(err)
		}
		if !b.Complete() {
			t.Error("the partial blob was not completed")
		}
	}
	if err := s.Cache(other.digest, other.content); !errors.Is(err, store.ErrFull) {
		t.Errorf("beyond the quota, all of it in use: %v", err)
	}
	b.Release()
	if err := s.Cache(other.digest, other.content); err != nil {
		t.Errorf("with something to evict: %v", err)
	}
	if isWhole(t, s, f, store.Meta{}) {
		t.Error("nothing was evicted")
	}
	if got := s.Usage(); got.Used != int64(len(other.content)) || got.Promised != 0 {
		t.Errorf("usage %+v", got)
	}
	if err := s.Cache("sha256:short", nil); err == nil {
		t.Error("a digest that is none")
	}
	s.Close()
	if err := s.Cache(f.digest, f.content); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Many cache, read and delete the same few blobs.
func TestCacheSideBySide(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	all := crashFixtures()[:4]
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 40 {
				f := all[(i+w)%len(all)]
				// Another may delete it at any moment.
				if err := s.Cache(f.digest, f.content); err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
				if b, err := s.Blob(f.digest); err == nil {
					if file, err := b.File(); err == nil {
						if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, f.content) {
							t.Errorf("%d bytes, %v; want %d", len(got), err, len(f.content))
						}
						file.Close()
					} else if !errors.Is(err, store.ErrNotFound) {
						t.Error(err)
					}
					b.Release()
				}
				if i%8 == w {
					if err := s.Delete(f.digest); err != nil && !errors.Is(err, store.ErrNotFound) {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	var used int64
	for _, f := range all {
		if err := s.Cache(f.digest, f.content); err != nil {
			t.Error(err)
		}
		isWhole(t, s, f, store.Meta{})
		used += int64(len(f.content))
	}
	if got := s.Usage(); got.Used != used || got.Promised != 0 || got.Blobs != len(all) {
		t.Errorf("usage %+v, want %d bytes", got, used)
	}
}
