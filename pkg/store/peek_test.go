package store_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// Peek and List see what an open store holds whole, and nothing else.
func TestPeek(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	whole, cached, part := storetest.Content(1, 300_000), []byte("cached"), storetest.Content(2, 300_000)
	dw, dc, dp := digest.FromBytes(whole), digest.SHA512.FromBytes(cached), digest.FromBytes(part)
	err = errors.Join(s.Put(dw, whole, store.Meta{MediaType: "a/b", Sources: []string{"up.test/x"}}), s.Cache(dc, cached))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Create(dp, int64(len(part)))
	if err == nil {
		_, err = b.WritePiece(0, part[:b.Geometry().Len(0)])
	}
	if err != nil {
		t.Fatal(err)
	}
	b.Release()

	list, err := store.List(dir)
	if want := []digest.Digest{dw, dc}; err != nil || !slices.Equal(list, want) {
		t.Errorf("List: %v, %v; want %v", list, err, want)
	}
	for d, want := range map[digest.Digest][]byte{dw: whole, dc: cached} {
		f, in, err := store.Peek(dir, d)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(got, want) || in.Size != int64(len(want)) || !in.Complete {
			t.Errorf("Peek %s: %d bytes, %+v, %v", d, len(got), in, err)
		}
		if d == dw && (in.Meta.MediaType != "a/b" || !slices.Equal(in.Meta.Sources, []string{"up.test/x"}) || in.Kept) {
			t.Errorf("Peek %s: %+v", d, in)
		}
	}
	for _, d := range []digest.Digest{dp, digest.FromString("nothing")} {
		if _, _, err := store.Peek(dir, d); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Peek %s: %v", d, err)
		}
	}
	if _, err := store.List(filepath.Join(dir, "nowhere")); err != nil {
		t.Errorf("a directory without a store: %v", err)
	}
	if _, err := store.Lock(dir); !errors.Is(err, store.ErrLocked) {
		t.Errorf("Lock of an open store: %v", err)
	}
}
