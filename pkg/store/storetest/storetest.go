package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// Open opens the store under test in dir, which may hold what an earlier store
// left. quota is in bytes, 0 = none. It arranges for Close at the end of the
// test; the suite may close it before.
type Open func(t *testing.T, dir string, quota int64) *store.Store

// Run runs the whole suite.
func Run(t *testing.T, open func(t *testing.T, dir string, quota int64) *store.Store) {
	groups := []struct {
		name  string
		tests map[string]func(*testing.T, Open)
	}{
		{"Blob", blobTests},
		{"End", endTests},
		{"Raw", rawTests},
		{"Read", readTests},
		{"Reader", readerTests},
		{"Quota", quotaTests},
		{"Keep", keepTests},
		{"Concurrent", concurrentTests},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for name, test := range g.tests {
				t.Run(name, func(t *testing.T) { test(t, open) })
			}
		})
	}
}

const (
	ps = piece.MinSize // the piece size of every blob in the suite
)

// Content returns size bytes that follow from seed: random to any compressor,
// the same in every process.
func Content(seed uint64, size int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

// fixture is a blob to store.
type fixture struct {
	content []byte
	digest  digest.Digest
	g       piece.Geometry
}

func fix(seed uint64, size int) fixture {
	c := Content(seed, size)
	g, err := piece.GeometryOf(int64(size))
	if err != nil {
		panic(err)
	}
	return fixture{content: c, digest: digest.FromBytes(c), g: g}
}

func (f fixture) size() int64 { return int64(len(f.content)) }

func (f fixture) piece(i int) []byte {
	off := f.g.Offset(i)
	return f.content[off : off+int64(f.g.Len(i))]
}

func (f fixture) last() int { return f.g.Count() - 1 }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s is %v, want %v", what, got, want)
	}
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes differ from the %d wanted", what, len(got), len(want))
	}
}

// create pins a blob until the test ends.
func create(t *testing.T, s *store.Store, f fixture) *store.Blob {
	t.Helper()
	b, err := s.Create(f.digest, f.size())
	ok(t, err)
	t.Cleanup(b.Release)
	return b
}

func blob(t *testing.T, s *store.Store, f fixture) *store.Blob {
	t.Helper()
	b, err := s.Blob(f.digest)
	ok(t, err)
	t.Cleanup(b.Release)
	return b
}

func write(t *testing.T, b *store.Blob, f fixture, pieces ...int) {
	t.Helper()
	for _, i := range pieces {
		fresh, err := b.WritePiece(i, f.piece(i))
		ok(t, err)
		equal(t, "fresh", fresh, true)
	}
}

func upTo(n int) (pieces []int) {
	for i := range n {
		pieces = append(pieces, i)
	}
	return pieces
}

// complete stores a whole blob and leaves it unpinned.
func complete(t *testing.T, s *store.Store, f fixture) {
	t.Helper()
	b, err := s.Create(f.digest, f.size())
	ok(t, err)
	defer b.Release()
	write(t, b, f, upTo(f.g.Count())...)
	ok(t, b.Commit(true))
}

// held checks that the store has f complete, with the right bytes.
func held(t *testing.T, s *store.Store, f fixture) {
	t.Helper()
	b, err := s.Blob(f.digest)
	ok(t, err)
	defer b.Release()
	equal(t, "complete", b.Complete(), true)
	r := b.NewReader(context.Background(), store.ReadOptions{})
	defer r.Close()
	got, err := io.ReadAll(r)
	ok(t, err)
	same(t, "content", got, f.content)
}

func usage(t *testing.T, s *store.Store, used int64, blobs, partial int) {
	t.Helper()
	u := s.Usage()
	if u.Used != used || u.Blobs != blobs || u.Partial != partial {
		t.Fatalf("usage is %d bytes, %d blobs, %d partial; want %d, %d, %d", u.Used, u.Blobs, u.Partial, used, blobs, partial)
	}
}
