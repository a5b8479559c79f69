package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// minutes is the clock of every shelf: each look moves it by a minute.
var minutes atomic.Int64

// shelf is a store with quotas.
type shelf struct {
	*store.Store
	t     *testing.T
	o     store.Options
	dir   string
	blobs map[string]crashBlob
}

// openShelf opens a store with quotas given as "docker.io", 4, ... in pieces.
func openShelf(t *testing.T, dir string, total int64, quotas ...any) *shelf {
	t.Helper()
	o := store.Options{Quota: total * piece.MinSize, Now: func() time.Time {
		return time.Date(2026, 1, 1, 0, int(minutes.Add(1)), 0, 0, time.UTC)
	}}
	for i := 0; i < len(quotas); i += 2 {
		o.Prefixes = append(o.Prefixes, store.PrefixQuota{Prefix: quotas[i].(string), Bytes: int64(quotas[i+1].(int)) * piece.MinSize})
	}
	return &shelf{Store: open(t, dir, o), t: t, o: o, dir: dir, blobs: make(map[string]crashBlob)}
}

// again opens the store anew.
func (s *shelf) again(quotas ...any) {
	s.t.Helper()
	if err := s.Close(); err != nil {
		s.t.Fatal(err)
	}
	blobs := s.blobs
	*s = *openShelf(s.t, s.dir, s.o.Quota/piece.MinSize, quotas...)
	s.blobs = blobs
}

// fixture is the blob of that name, of so many pieces.
func (s *shelf) fixture(name string, pieces int) crashBlob {
	f, ok := s.blobs[name]
	if !ok {
		f = crashFixture(uint64(7000+len(s.blobs)), pieces*piece.MinSize)
		s.blobs[name] = f
	}
	return f
}

// begin creates a blob and writes all of it.
func (s *shelf) begin(name string, pieces int, from ...string) *store.Blob {
	s.t.Helper()
	f := s.fixture(name, pieces)
	b, err := s.Create(f.digest, int64(len(f.content)), from...)
	if err == nil {
		err = b.SetMeta(store.Meta{Sources: from})
	}
	for i := 0; err == nil && i < f.g.Count(); i++ {
		_, err = b.WritePiece(i, f.piece(i))
	}
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	return b
}

// put stores a blob from repositories.
func (s *shelf) put(name string, pieces int, from ...string) {
	s.t.Helper()
	b := s.begin(name, pieces, from...)
	if err := b.Commit(false); err != nil {
		s.t.Fatal(err)
	}
	b.Release()
}

// has checks which blobs there are, and what counts for the prefixes, the
// longest name first.
func (s *shelf) has(names string, used ...int) {
	s.t.Helper()
	var got []string
	for name, f := range s.blobs {
		if _, err := s.Stat(f.digest); err == nil {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if text := strings.Join(got, " "); text != names {
		s.t.Errorf("held are %q, want %q", text, names)
	}
	if err := s.Accounts(); err != nil {
		s.t.Error(err)
	}
	var counts []int
	for _, p := range s.Usage().Prefixes {
		counts = append(counts, int(p.Used/piece.MinSize))
	}
	if !slices.Equal(counts, used) {
		s.t.Errorf("%v pieces count for the prefixes, want %v", counts, used)
	}
}

func TestPrefixQuota(t *testing.T) {
	s := openShelf(t, t.TempDir(), 100, "docker.io", 4, "/ghcr.io/", 50)
	s.put("a", 2, "quay.io/x/y")
	s.put("b", 2, "docker.io/library/b")
	s.put("c", 2, "docker.io/library/c")
	s.put("d", 2, "docker.iox/library/d")
	s.put("e", 2, "ghcr.io/e/e")
	s.has("a b c d e", 4, 2)
	s.Touch(s.blobs["b"].digest)
	s.put("f", 1, "docker.io/library/f")
	s.has("a b d e f", 3, 2) // not the oldest of all
	s.put("g", 1, "docker.io/library/g")
	s.has("a b d e f g", 4, 2)
}

func TestPrefixWithinPrefix(t *testing.T) {
	s := openShelf(t, t.TempDir(), 0, "docker.io", 6, "docker.io/library", 3)
	s.put("a", 2, "docker.io/library/a")
	s.put("b", 2, "docker.io/team/b")
	s.put("c", 1, "docker.io/library/c")
	s.has("a b c", 3, 5)
	s.put("d", 1, "docker.io/library/d")
	s.has("b c d", 2, 4)
	s.put("e", 4, "docker.io/team/e")
	s.has("c d e", 2, 6)
}

func TestPrefixShared(t *testing.T) {
	dir := t.TempDir()
	s := openShelf(t, dir, 0, "docker.io", 4, "ghcr.io", 3)
	s.put("a", 2, "docker.io/library/a", "ghcr.io/a/a")
	s.put("b", 2, "docker.io/library/b", "quay.io/b/b")
	s.has("a b", 4, 2)
	s.put("c", 3, "docker.io/library/c")
	s.has("a b c", 3, 2) // a is ghcr.io's alone, b nobody's that has a quota
	s.put("d", 2, "ghcr.io/d/d")
	s.has("b c d", 3, 2)

	// Who names it anew counts for it again; to note that is no use.
	s.CountFor(s.blobs["b"].digest, "docker.io/library/b")
	s.has("b c d", 3, 2)
	s.CountFor(s.blobs["d"].digest, "docker.io/library/d")
	s.has("b d", 2, 2)

	// Sources are found again at the start, oldest first.
	s.again("docker.io", 2, "ghcr.io", 1)
	s.has("b", 2, 0)
	s.again()
	s.has("b")
}

func TestPrefixTooSmall(t *testing.T) {
	s := openShelf(t, t.TempDir(), 12, "docker.io", 4, "ghcr.io", 8)
	s.put("a", 3, "docker.io/library/a")
	b := s.begin("b", 5, "docker.io/library/b")
	s.has("a b", 3, 0)
	if err := b.Commit(false); err != nil {
		t.Fatal(err)
	}
	r := b.NewReader(context.Background(), store.ReadOptions{})
	b.Release()
	if got, err := io.ReadAll(r); err != nil || len(got) != 5*piece.MinSize {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	s.has("a b", 3, 0)
	r.Close()
	s.has("a", 3, 0)

	// Another who has room for it keeps it.
	s.put("b", 5, "docker.io/library/b", "ghcr.io/b/b")
	s.has("a b", 3, 5)

	// What the whole quota does not allow is refused, and nothing goes for it.
	c := s.fixture("c", 13)
	if _, err := s.Create(c.digest, int64(len(c.content)), "docker.io/c/c"); !errors.Is(err, store.ErrFull) {
		t.Errorf("error is %v", err)
	}
	s.has("a b", 3, 5)
}

func TestPrefixGivesWay(t *testing.T) {
	s := openShelf(t, t.TempDir(), 0, "docker.io", 4)
	a := s.begin("a", 3, "docker.io/library/a")
	b := s.begin("b", 3, "docker.io/library/b")
	s.has("a b", 6) // both are in use
	a.Release()
	s.has("b", 3)
	b.Release()
	s.has("b", 3)
}

func TestPrefixKept(t *testing.T) {
	s := openShelf(t, t.TempDir(), 0, "docker.io", 4)
	keep := func(name string, on bool) {
		t.Helper()
		b, err := s.Blob(s.blobs[name].digest)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Release()
		if err := b.Keep(on); err != nil {
			t.Fatal(err)
		}
	}
	s.put("a", 2, "docker.io/library/a")
	keep("a", true)
	s.has("a", 0)
	s.put("b", 3, "docker.io/library/b")
	s.again("docker.io", 4)
	s.has("a b", 3)
	keep("a", false)
	s.has("a", 2) // it was used last
}

// TestPrefixCached: cached blobs have no sources on disk; they are told anew.
func TestPrefixCached(t *testing.T) {
	s := openShelf(t, t.TempDir(), 0, "docker.io", 2)
	cache := func(name string) {
		t.Helper()
		f := s.fixture(name, 1)
		if err := s.Cache(f.digest, f.content, "docker.io/library/x"); err != nil {
			t.Fatal(err)
		}
	}
	cache("a")
	cache("b")
	s.has("a b", 2)
	cache("a") // once more
	cache("c")
	s.has("a c", 2)
	s.again("docker.io", 1)
	s.has("a c", 0)
	for _, name := range []string{"a", "c"} {
		s.CountFor(s.blobs[name].digest, "docker.io/library/x")
	}
	s.has("c", 1)
}

// TestUse: what moves the time of last use, and what does not.
func TestUse(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(s *shelf, f crashBlob) error
		use  bool
	}{
		{"stat", func(s *shelf, f crashBlob) error { _, err := s.Stat(f.digest); return err }, false},
		{"list", func(s *shelf, _ crashBlob) error { s.Infos(); return nil }, false},
		{"peek", func(s *shelf, f crashBlob) error {
			file, _, err := s.Peek(f.digest)
			if err != nil {
				return err
			}
			return file.Close()
		}, false},
		{"count", func(s *shelf, f crashBlob) error { s.CountFor(f.digest, "docker.io/x/y"); return nil }, false},
		{"restart", func(s *shelf, _ crashBlob) error { s.again("docker.io", 9); return nil }, false},
		{"touch", func(s *shelf, f crashBlob) error {
			if !s.Touch(f.digest) {
				return errors.New("it was not written")
			}
			return nil
		}, true},
		{"handle", func(s *shelf, f crashBlob) error {
			b, err := s.Blob(f.digest)
			if err != nil {
				return err
			}
			b.Release()
			return nil
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openShelf(t, t.TempDir(), 0, "docker.io", 9)
			s.put("a", 1)
			s.put("b", 1)
			was, _ := s.Stat(s.blobs["a"].digest)
			if err := c.do(s, s.blobs["a"]); err != nil {
				t.Fatal(err)
			}
			is, _ := s.Stat(s.blobs["a"].digest)
			b, _ := s.Stat(s.blobs["b"].digest)
			if c.use != is.LastUse.After(b.LastUse) || !c.use && !is.LastUse.Equal(was.LastUse) {
				t.Errorf("last use was %v and is %v", was.LastUse, is.LastUse)
			}
		})
	}
}

// TestUseEnds: a long read is a use to its end, a long pin is none.
func TestUseEnds(t *testing.T) {
	s := openShelf(t, t.TempDir(), 2)
	a, b := s.begin("a", 1), s.begin("b", 1)
	r := b.NewReader(context.Background(), store.ReadOptions{})
	b.Release()
	s.Touch(s.blobs["a"].digest)
	r.Close()
	a.Release()
	s.put("c", 1)
	s.has("b c")
}

// TestAccounts does everything at random and adds up after each step.
func TestAccounts(t *testing.T) {
	s := openShelf(t, t.TempDir(), 14, "docker.io", 6, "docker.io/library", 3, "ghcr.io", 5)
	repositories := []string{"docker.io/library/a", "docker.io/team/b", "ghcr.io/c/d", "quay.io/e/f", "docker.io/library/g"}
	rng := rand.New(rand.NewPCG(1, 2))
	from := func() []string {
		rng.Shuffle(len(repositories), func(i, j int) { repositories[i], repositories[j] = repositories[j], repositories[i] })
		return slices.Clone(repositories[:rng.IntN(3)])
	}
	held := make(map[string]*store.Blob)
	for step := range 2000 {
		name := fmt.Sprint("b", rng.IntN(12))
		f := s.fixture(name, 1+len(s.blobs)%5)
		d := f.digest
		var err error
		switch rng.IntN(9) {
		case 0, 1, 2:
			if held[name] == nil {
				held[name], err = s.Create(d, int64(len(f.content)), from()...)
				if errors.Is(err, store.ErrFull) {
					delete(held, name)
					err = nil
				}
			}
		case 3, 4:
			if b := held[name]; b != nil {
				b.Release()
				delete(held, name)
			}
		case 5:
			for i := 0; err == nil && held[name] != nil && i < 1+rng.IntN(f.g.Count()); i++ {
				_, err = held[name].WritePiece(i, f.piece(i))
			}
			if b := held[name]; err == nil && b != nil && b.Have().Full() {
				err = b.Commit(false)
			}
		case 6:
			s.CountFor(d, repositories[0])
			s.Touch(d)
		case 7:
			if b := held[name]; b != nil && rng.IntN(2) == 0 {
				err = b.Keep(rng.IntN(4) == 0)
			} else if b != nil {
				err = b.SetMeta(store.Meta{Sources: from()})
			}
		case 8:
			if rng.IntN(4) == 0 && held[name] == nil {
				if err = s.Delete(d); errors.Is(err, store.ErrNotFound) {
					err = nil
				}
			}
		}
		if err == nil {
			err = s.Accounts()
		}
		if err != nil && !errors.Is(err, store.ErrFull) {
			t.Fatalf("step %d: %v", step, err)
		}
		if u := s.Usage(); u.Used+u.Promised > u.Quota {
			t.Fatalf("step %d: %+v", step, u)
		}
	}
	for _, b := range held {
		b.Release()
	}
	for _, p := range s.Usage().Prefixes {
		if p.Used > p.Bytes {
			t.Errorf("nothing is in use, and %+v", p)
		}
	}
}
