package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

// workers runs n workers and fails the test with the first error of each.
func workers(t *testing.T, n int, work func(k int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for k := range n {
		wg.Go(func() {
			if err := work(k); err != nil {
				t.Errorf("worker %d: %v", k, err)
			}
		})
	}
	wg.Wait()
}

var concurrentTests = map[string]func(*testing.T, Open){
	"one of many writers writes": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(200, 6*ps)
		var fresh atomic.Int64
		workers(t, 8, func(k int) error {
			b, err := s.Create(f.digest, f.size())
			if err != nil {
				return err
			}
			defer b.Release()
			for i := range f.g.Count() {
				won, err := b.WritePiece(i, f.piece(i))
				if err != nil {
					return err
				}
				if !b.Has(i) {
					return fmt.Errorf("piece %d is not there after its write", i)
				}
				if won {
					fresh.Add(1)
				}
			}
			return b.Commit(k%2 == 0)
		})
		equal(t, "fresh", fresh.Load(), int64(f.g.Count()))
		usage(t, s, f.size(), 1, 0)
		held(t, s, f)
	},

	"many readers, many writers, one commit": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(201, 12*ps+5)
		b := create(t, s, f)
		var wg sync.WaitGroup
		for k := range 16 {
			wg.Go(func() {
				r := b.NewReader(context.Background(), store.ReadOptions{})
				defer r.Close()
				var got []byte
				var err error
				switch k % 3 {
				case 0:
					got, err = io.ReadAll(r)
				case 1:
					var w recorder
					_, err = r.WriteTo(&w)
					got = w.b
				case 2:
					var w bytes.Buffer
					_, err = r.WriteTo(&w)
					got = w.Bytes()
				}
				if err != nil || !bytes.Equal(got, f.content) {
					t.Errorf("reader %d: %d bytes, %v", k, len(got), err)
				}
			})
		}
		workers(t, 4, func(k int) error {
			for _, i := range rand.New(rand.NewPCG(1, uint64(k))).Perm(f.g.Count()) {
				if _, err := b.WritePiece(i, f.piece(i)); err != nil {
					return err
				}
			}
			return nil
		})
		ok(t, b.Commit(true))
		wg.Wait()
	},

	"everything at once never yields a wrong byte": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 14*ps)
		fixtures := make([]fixture, 6)
		for i := range fixtures {
			fixtures[i] = fix(300+uint64(i), (1+i)*ps+i)
		}
		expected := []error{store.ErrNotFound, store.ErrFull, store.ErrNotHeld, store.ErrCorrupt, context.Canceled}
		workers(t, 8, func(k int) error {
			rng := rand.New(rand.NewPCG(2, uint64(k)))
			for range 400 {
				f := fixtures[rng.IntN(len(fixtures))]
				err := anything(s, f, rng)
				for _, e := range expected {
					if errors.Is(err, e) {
						err = nil
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		u := s.Usage()
		equal(t, "promised", u.Promised, 0)
		var used int64
		for _, i := range s.Infos() {
			for _, f := range fixtures {
				if f.digest != i.Digest {
					continue
				}
				b := blob(t, s, f)
				for p := range b.Have().All() {
					got, err := b.ReadPiece(p, nil)
					ok(t, err)
					same(t, "piece", got, f.piece(p))
					used += int64(len(got))
				}
				for p := range b.Raw().All() {
					used += int64(f.g.Len(p))
				}
			}
		}
		equal(t, "used", u.Used, used)
		if u.Used > u.Quota {
			t.Fatalf("%d bytes used of a quota of %d", u.Used, u.Quota)
		}
	},
}

// anything does one thing to a blob that is right whatever others do to it.
func anything(s *store.Store, f fixture, rng *rand.Rand) error {
	if rng.IntN(20) == 0 {
		return s.Delete(f.digest)
	}
	if rng.IntN(20) == 0 {
		return s.Put(f.digest, f.content, store.Meta{MediaType: "x"})
	}
	b, err := s.Create(f.digest, f.size())
	if err != nil {
		return err
	}
	defer b.Release()
	i := rng.IntN(f.g.Count())
	switch rng.IntN(12) {
	case 0:
		return b.Commit(rng.IntN(2) == 0)
	case 1:
		if b.Complete() {
			return nil
		}
		if err := b.Discard(); err != nil && !b.Complete() {
			return err
		}
		return nil
	case 2:
		_, err := b.WriteRaw(i, f.piece(i), rng.IntN(2) == 0)
		return err
	case 3:
		return b.SetRuns([][]byte{f.content[:10], f.content[:rng.IntN(100)%len(f.content)]})
	case 4:
		var w recorder
		if _, err := b.WritePieces(&w, []int{i}); err != nil {
			return err
		}
		return check(f, f.g.Offset(i), w.b)
	case 5, 6:
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r := b.NewReader(ctx, store.ReadOptions{OnWait: func(int, int) { cancel() }})
		defer r.Close()
		off, err := r.Seek(rng.Int64N(f.size()), io.SeekStart)
		if err != nil {
			return err
		}
		var w recorder
		_, err = r.WriteTo(&w)
		if err2 := check(f, off, w.b); err2 != nil {
			return err2
		}
		return err
	case 7:
		return b.Settle()
	default:
		if _, err := b.WritePiece(i, f.piece(i)); err != nil {
			return err
		}
		got, err := b.ReadPiece(i, nil)
		if err != nil {
			return err
		}
		return check(f, f.g.Offset(i), got)
	}
}

func check(f fixture, off int64, got []byte) error {
	if !bytes.Equal(got, f.content[off:off+int64(len(got))]) {
		return fmt.Errorf("%d bytes at %d of %s are wrong", len(got), off, f.digest)
	}
	return nil
}
