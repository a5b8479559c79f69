package storetest

import (
	"io"
	"testing"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

var rawTests = map[string]func(*testing.T, Open){
	"is neither verified nor given on": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(30, 3*ps)
		b := create(t, s, f)
		for i, readable := range []bool{true, false} {
			fresh, err := b.WriteRaw(i, f.piece(i), readable)
			ok(t, err)
			equal(t, "fresh", fresh, true)
			fresh, err = b.WriteRaw(i, f.piece(i), readable)
			ok(t, err)
			equal(t, "fresh again", fresh, false)
			equal(t, "has", b.Has(i), false)
			equal(t, "raw", b.Raw().Has(i), true)
			_, err = b.ReadPiece(i, nil)
			is(t, err, store.ErrNotHeld)
			n, err := b.WritePieces(io.Discard, []int{i})
			is(t, err, store.ErrNotHeld)
			equal(t, "sent", n, 0)
		}
		usage(t, s, 2*ps, 0, 1)
	},

	"confirm": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f := fix(31, 3*ps)
		b := create(t, s, f)
		for i := range 2 {
			_, err := b.WriteRaw(i, f.piece(i), i == 0)
			ok(t, err)
		}
		right, err := b.Confirm(0, piece.Sum(f.piece(0)))
		ok(t, err)
		equal(t, "right", right, true)
		right, err = b.Confirm(0, piece.Hash{}) // verified already: stays
		ok(t, err)
		equal(t, "right", right, true)
		right, err = b.Confirm(1, piece.Sum(f.piece(0)))
		ok(t, err)
		equal(t, "right", right, false)
		_, err = b.Confirm(1, piece.Sum(f.piece(1)))
		is(t, err, store.ErrNotHeld)
		_, err = b.Confirm(3, piece.Hash{})
		is(t, err, store.ErrNotHeld)
		usage(t, s, ps, 0, 1)
		ok(t, s.Close())
		s = open(t, dir, 0)
		b = create(t, s, f)
		equal(t, "have 0", b.Has(0), true)
		equal(t, "raw 1", b.Raw().Has(1), false)
		write(t, b, f, 1, 2)
		ok(t, b.Commit(true))
		held(t, s, f)
	},

	"a better source replaces": func(t *testing.T, open Open) {
		f, liar := fix(32, 3*ps), fix(33, 3*ps)
		for _, wrong := range []bool{false, true} {
			s := open(t, t.TempDir(), 0)
			b := create(t, s, f)
			first := f
			if wrong {
				first = liar
			}
			_, err := b.WriteRaw(0, first.piece(0), false)
			ok(t, err)
			fresh, err := b.WriteRaw(0, f.piece(0), true) // the upstream's word is worth more
			ok(t, err)
			equal(t, "fresh", fresh, true)
			fresh, err = b.WriteRaw(0, liar.piece(0), false) // a peer's is not
			ok(t, err)
			equal(t, "fresh", fresh, false)
			_, err = b.WriteRaw(1, first.piece(1), true)
			ok(t, err)
			write(t, b, f, 0, 1, 2)
			equal(t, "raw", b.Raw().Count(), 0)
			usage(t, s, f.size(), 0, 1)
			ok(t, b.Commit(true))
			held(t, s, f)
		}
	},

	"commit hashes unasked": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f, liar := fix(34, 2*ps), fix(35, 2*ps)
		b := create(t, s, f)
		write(t, b, f, 0)
		_, err := b.WriteRaw(1, liar.piece(1), true)
		ok(t, err)
		is(t, b.Commit(false), store.ErrCorrupt)
		usage(t, s, 0, 0, 1)
		for i := range 2 {
			_, err := b.WriteRaw(i, f.piece(i), i == 0)
			ok(t, err)
		}
		ok(t, b.Commit(false))
		held(t, s, f)
	},

	"a local reader gets the upstream's, not a peer's": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(36, 4*ps)
		b := create(t, s, f)
		for i, readable := range []bool{true, false, true, true} {
			_, err := b.WriteRaw(i, f.piece(i), readable)
			ok(t, err)
		}
		waits := make(chan int, 8)
		r := b.NewReader(t.Context(), store.ReadOptions{OnWait: func(first, end int) { waits <- first }})
		defer r.Close()
		got := readAll(r)
		equal(t, "waits for", <-waits, 1)
		_, err := b.Confirm(1, piece.Sum(f.piece(1)))
		ok(t, err)
		equal(t, "waits for", <-waits, 3) // withheld
		ok(t, b.Commit(true))
		res := <-got
		ok(t, res.err)
		same(t, "content", res.b, f.content)
	},

	"a reader of what proved wrong fails": func(t *testing.T, open Open) {
		f, liar := fix(37, 4*ps), fix(38, 4*ps)
		drop := map[string]func(b *store.Blob) error{
			"confirm": func(b *store.Blob) error { _, err := b.Confirm(0, piece.Sum(f.piece(0))); return err },
			"replace": func(b *store.Blob) error { _, err := b.WritePiece(0, f.piece(0)); return err },
			"discard": func(b *store.Blob) error { return b.Discard() },
		}
		for name, drop := range drop {
			t.Run(name, func(t *testing.T) {
				s := open(t, t.TempDir(), 0)
				b := create(t, s, f)
				_, err := b.WriteRaw(0, liar.piece(0), true)
				ok(t, err)
				had := b.NewReader(t.Context(), store.ReadOptions{})
				defer had.Close()
				_, err = io.ReadFull(had, make([]byte, 100))
				ok(t, err)
				waits := make(chan int, 8)
				waiting := b.NewReader(t.Context(), store.ReadOptions{OnWait: func(i, _ int) { waits <- i }})
				defer waiting.Close()
				_, err = waiting.Seek(ps, io.SeekStart)
				ok(t, err)
				got := readAll(waiting)
				equal(t, "waits for", <-waits, 1)
				ok(t, drop(b))
				if _, err := b.WritePiece(0, f.piece(0)); err != nil {
					t.Fatal(err)
				}
				_, err = had.Read(make([]byte, 100))
				is(t, err, store.ErrCorrupt)

				// One that has read nothing of it goes on.
				write(t, b, f, 1, 2, 3)
				ok(t, b.Commit(true))
				res := <-got
				ok(t, res.err)
				same(t, "content", res.b, f.content[ps:])
				held(t, s, f)
			})
		}
	},
}

type result struct {
	b   []byte
	err error
}

// readAll reads in the background until the end or an error.
func readAll(r io.Reader) <-chan result {
	c := make(chan result, 1)
	go func() {
		b, err := io.ReadAll(r)
		c <- result{b, err}
	}()
	return c
}
