package store_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

// While a blob is flushed, which can take seconds, all that does not change its
// content goes on.
func TestCommitHoldsNobodyUp(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	f := crashFixtures()[7]
	b, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	for i := range f.g.Count() {
		if _, err := b.WritePiece(i, f.piece(i)); err != nil {
			t.Fatal(err)
		}
	}
	passed := false
	s.OnStep(func(step string) {
		if step != "commit: flushed" {
			return
		}
		passed = true
		check := func(err error) {
			if err != nil {
				t.Error(err)
			}
		}
		_, err := b.WritePiece(1, f.piece(1))
		check(err)
		_, err = b.WriteRaw(1, f.piece(1), true)
		check(err)
		_, err = b.ReadPiece(1, nil)
		check(err)
		_, err = b.WritePieces(io.Discard, []int{0, 1, 2})
		check(err)
		check(b.SetMeta(store.Meta{MediaType: "x/y"}))
		check(b.SetRuns([][]byte{[]byte("final")}))
		check(b.Settle())
		_, err = s.Stat(f.digest)
		check(err)
		again, err := s.Create(f.digest, int64(len(f.content)))
		check(err)
		r := again.NewReader(context.Background(), store.ReadOptions{})
		again.Release()
		n, err := r.WriteTo(io.Discard) // the last piece too: the digest is known
		check(err)
		if n != int64(len(f.content)) {
			t.Errorf("read %d bytes", n)
		}
		check(r.Close())
	})
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	if !passed {
		t.Fatal("the step was not passed")
	}
	if m := b.Meta(); m.MediaType != "x/y" || len(b.Runs()) != 1 {
		t.Errorf("%+v, %q", m, b.Runs())
	}
}

func TestDescriptorsAreClosed(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skipf("cannot count descriptors: %v", err)
		}
		return len(entries)
	}
	s := open(t, t.TempDir(), store.Options{})
	before := count()
	for k, f := range crashFixtures() {
		b, err := s.Create(f.digest, int64(len(f.content)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range f.g.Count() {
			if _, err := b.WritePiece(i, f.piece(i)); err != nil {
				t.Fatal(err)
			}
		}
		switch k % 4 {
		case 0:
			err = b.Commit(true)
		case 1:
			err = b.Discard()
		case 2:
			err = s.Delete(f.digest)
		case 3:
			if err = b.Settle(); err != nil {
				break
			}
			r := b.NewReader(t.Context(), store.ReadOptions{})
			_, err = r.WriteTo(io.Discard)
			r.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// Between the new file and the cleared bits there is no moment at which a
// reader could take the one for the other.
func TestDiscardIsOneStep(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	f := crashFixtures()[7]
	b, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	for i := range f.g.Count() {
		if _, err := b.WritePiece(i, f.piece(i)); err != nil {
			t.Fatal(err)
		}
	}
	steps := 0
	s.OnStep(func(step string) {
		if !strings.HasPrefix(step, "discard") {
			return
		}
		steps++
		var got bytes.Buffer
		if _, err := b.WritePieces(&got, []int{0}); err == nil && !bytes.Equal(got.Bytes(), f.piece(0)) {
			t.Errorf("%s: a wrong piece was sent", step)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := b.NewReader(ctx, store.ReadOptions{OnWait: func(int, int) { cancel() }})
		defer r.Close()
		got.Reset()
		r.WriteTo(&got)
		if !bytes.HasPrefix(f.content, got.Bytes()) {
			t.Errorf("%s: wrong bytes were read", step)
		}
	})
	if err := b.Discard(); err != nil {
		t.Fatal(err)
	}
	if steps != 3 {
		t.Errorf("%d steps were passed", steps)
	}
}
