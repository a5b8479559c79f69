package storetest

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// watched returns a reader and the pieces it waits for as they come.
func watched(t *testing.T, b *store.Blob, o store.ReadOptions) (*store.Reader, <-chan int) {
	waits := make(chan int, 64)
	o.OnWait = func(first, _ int) { waits <- first }
	r := b.NewReader(t.Context(), o)
	t.Cleanup(func() { r.Close() })
	return r, waits
}

var readerTests = map[string]func(*testing.T, Open){
	"streams while pieces arrive": func(t *testing.T, open Open) {
		f := fix(50, 5*ps+77)
		for name, stream := range map[string]func(*store.Reader) <-chan result{
			"read": func(r *store.Reader) <-chan result { return readAll(r) },
			"writeto": func(r *store.Reader) <-chan result {
				c := make(chan result, 1)
				go func() {
					var w recorder
					_, err := r.WriteTo(&w)
					c <- result{w.b, err}
				}()
				return c
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := open(t, t.TempDir(), 0)
				b := create(t, s, f)
				write(t, b, f, 4, 1, 2)
				r, waits := watched(t, b, store.ReadOptions{})
				got := stream(r)
				equal(t, "waits for", <-waits, 0)
				write(t, b, f, 0)
				equal(t, "waits for", <-waits, 3)
				write(t, b, f, 5)
				write(t, b, f, 3)
				equal(t, "waits for", <-waits, 5) // held, but withheld
				ok(t, b.Commit(true))
				res := <-got
				ok(t, res.err)
				same(t, "content", res.b, f.content)
				n, err := r.Read(make([]byte, 1))
				equal(t, "after the end", n, 0)
				is(t, err, io.EOF)
			})
		}
	},

	"goes to every kind of writer": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(51, 5*ps+77)
		complete(t, s, f)
		b := blob(t, s, f)
		for name, send := range writers(t) {
			r := b.NewReader(t.Context(), store.ReadOptions{})
			_, err := r.Seek(10, io.SeekStart)
			ok(t, err)
			got, n, err := send(r.WriteTo)
			ok(t, err)
			equal(t, "sent", n, f.size()-10)
			same(t, name, got, f.content[10:])
			ok(t, r.Close())
		}
	},

	"the last piece is withheld until settled": func(t *testing.T, open Open) {
		for _, size := range []int{1, ps, 2*ps + 1} {
			s := open(t, t.TempDir(), 0)
			f := fix(52, size)
			b := create(t, s, f)
			write(t, b, f, upTo(f.g.Count())...)
			r, waits := watched(t, b, store.ReadOptions{})
			got := readAll(r)
			equal(t, "waits for", <-waits, f.last())
			ok(t, b.Settle())
			res := <-got
			ok(t, res.err)
			same(t, "content", res.b, f.content)
			equal(t, "complete", b.Complete(), false)
		}
	},

	"settled first, then the pieces": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(53, 2*ps)
		b := create(t, s, f)
		ok(t, b.Settle())
		r, waits := watched(t, b, store.ReadOptions{})
		got := readAll(r)
		equal(t, "waits for", <-waits, 0)
		write(t, b, f, 0)
		equal(t, "waits for", <-waits, 1)
		// Settled was said of verified pieces, not of this.
		_, err := b.WriteRaw(1, f.piece(1), true)
		ok(t, err)
		select {
		case <-got:
			t.Fatal("an unverified last piece was read")
		default:
		}
		write(t, b, f, 1)
		res := <-got
		ok(t, res.err)
		same(t, "content", res.b, f.content)
	},

	"settled with everything here covers unverified pieces": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(54, 2*ps)
		b := create(t, s, f)
		for i := range 2 {
			_, err := b.WriteRaw(i, f.piece(i), true)
			ok(t, err)
		}
		ok(t, b.Settle())
		r, _ := watched(t, b, store.ReadOptions{})
		res := <-readAll(r)
		ok(t, res.err)
		same(t, "content", res.b, f.content)
		ok(t, b.Commit(false))
		held(t, s, f)
	},

	"settled no longer covers what changed": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f, liar := fix(64, 2*ps), fix(65, 2*ps)
		b := create(t, s, f)
		for i := range 2 {
			_, err := b.WriteRaw(i, liar.piece(i), i == 1)
			ok(t, err)
		}
		ok(t, b.Settle())
		right, err := b.Confirm(0, piece.Sum(f.piece(0)))
		ok(t, err)
		equal(t, "right", right, false)
		_, err = b.WriteRaw(0, f.piece(0), true)
		ok(t, err)
		r, waits := watched(t, b, store.ReadOptions{})
		got := readAll(r)
		equal(t, "waits for", <-waits, 1)
		is(t, b.Commit(false), store.ErrCorrupt)
		is(t, (<-got).err, store.ErrCorrupt)
	},

	"says what it waits for": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(55, 20*ps)
		b := create(t, s, f)
		write(t, b, f, 2)
		type window struct{ first, end int }
		windows := make(chan window, 8)
		waiting, waits, resumes := false, 0, 0
		r := b.NewReader(t.Context(), store.ReadOptions{Window: 4, OnWait: func(first, end int) {
			if waiting {
				t.Error("a wait began before the last had ended")
			}
			waiting, waits = true, waits+1
			windows <- window{first, end}
			if first == 18 {
				b.Fail(io.ErrUnexpectedEOF) // from within: must not be lost
			}
		}, OnResume: func() { waiting, resumes = false, resumes+1 }})
		defer r.Close()
		got := readAll(r)
		equal(t, "window", <-windows, window{0, 4})
		write(t, b, f, 0)
		equal(t, "window", <-windows, window{1, 5})
		write(t, b, f, 1)
		equal(t, "window", <-windows, window{3, 7})
		write(t, b, f, upTo(18)[3:]...)
		for w := range windows {
			if w.first == 18 {
				equal(t, "window", w, window{18, 20})
				break
			}
		}
		is(t, (<-got).err, io.ErrUnexpectedEOF)
		equal(t, "ends of waits", resumes, waits)
	},

	"seeks": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(56, 6*ps+5)
		b := create(t, s, f)
		write(t, b, f, 3)
		r, waits := watched(t, b, store.ReadOptions{})
		seek := func(off int64, whence int, want int64) {
			t.Helper()
			at, err := r.Seek(off, whence)
			ok(t, err)
			equal(t, "offset", at, want)
		}
		seek(0, io.SeekEnd, f.size())
		seek(0, io.SeekStart, 0)
		seek(3*ps+100, io.SeekStart, 3*ps+100)
		p := make([]byte, 1000)
		_, err := io.ReadFull(r, p)
		ok(t, err)
		same(t, "range", p, f.content[3*ps+100:3*ps+1100])
		equal(t, "waits", len(waits), 0)
		seek(-1100, io.SeekCurrent, 3*ps)
		n, err := r.Read(make([]byte, 2*ps)) // what is there, not more
		ok(t, err)
		equal(t, "read", n, ps)
		seek(-3, io.SeekEnd, f.size()-3)
		got := readAll(r)
		equal(t, "waits for", <-waits, 6)
		write(t, b, f, 6, 0, 1, 2, 4, 5)
		ok(t, b.Commit(true))
		same(t, "tail", (<-got).b, f.content[f.size()-3:])
		seek(10, io.SeekEnd, f.size()+10)
		_, err = r.Read(p)
		is(t, err, io.EOF)
		if _, err := r.Seek(-1, io.SeekStart); err == nil {
			t.Fatal("sought to before the start")
		}
		if _, err := r.Seek(0, 9); err == nil {
			t.Fatal("sought by an unknown whence")
		}
	},

	"ends with its context": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(57, 2*ps)
		b := create(t, s, f)
		write(t, b, f, 0)
		ctx, cancel := context.WithCancel(t.Context())
		waits := make(chan int, 1)
		r := b.NewReader(ctx, store.ReadOptions{OnWait: func(i, _ int) { waits <- i }})
		defer r.Close()
		got := readAll(r)
		<-waits
		cancel()
		res := <-got
		is(t, res.err, context.Canceled)
		same(t, "before that", res.b, f.content[:ps])
		_, err := r.Seek(0, io.SeekStart)
		ok(t, err)
		_, err = r.Read(make([]byte, 1)) // although it is there
		is(t, err, context.Canceled)
	},

	"stalls by the time it waits": func(t *testing.T, open Open) {
		synctest.Test(t, func(t *testing.T) {
			s := open(t, t.TempDir(), 0)
			f := fix(58, 3*ps)
			b := create(t, s, f)
			r := b.NewReader(t.Context(), store.ReadOptions{Stall: 10 * time.Second})
			defer r.Close()
			p := make([]byte, ps)
			for i := range 2 {
				time.AfterFunc(9*time.Second, func() { write(t, b, f, i) })
				_, err := io.ReadFull(r, p) // each wait has its own 10 s
				ok(t, err)
				<-time.After(time.Minute) // a slow client is not a stall
			}
			start := time.Now()
			_, err := r.Read(p)
			is(t, err, store.ErrStalled)
			equal(t, "waited", time.Since(start), 10*time.Second)
			write(t, b, f, 2)
			ok(t, b.Commit(true))
			_, err = io.ReadFull(r, p)
			ok(t, err)
			same(t, "piece", p, f.piece(2))
			ok(t, s.Close())
		})
	},

	"fails for those who wait now": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(59, 3*ps)
		b := create(t, s, f)
		cause := errors.New("nobody has it")
		b.Fail(cause) // nobody waits
		first, waits1 := watched(t, b, store.ReadOptions{})
		second, waits2 := watched(t, b, store.ReadOptions{})
		_, err := second.Seek(ps, io.SeekStart)
		ok(t, err)
		got1, got2 := readAll(first), readAll(second)
		<-waits1
		<-waits2
		b.Fail(cause)
		is(t, (<-got1).err, cause)
		is(t, (<-got2).err, cause)
		got1 = readAll(first) // anew
		<-waits1
		write(t, b, f, 0, 1, 2)
		ok(t, b.Commit(true))
		res := <-got1
		ok(t, res.err)
		same(t, "content", res.b, f.content)
	},

	"closes": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(60, 2*ps)
		b := create(t, s, f)
		r, waits := watched(t, b, store.ReadOptions{})
		got := readAll(r)
		<-waits
		ok(t, r.Close())
		ok(t, r.Close())
		is(t, (<-got).err, store.ErrClosed)

		r, waits = watched(t, b, store.ReadOptions{})
		got = readAll(r)
		<-waits
		ok(t, s.Close())
		is(t, (<-got).err, store.ErrClosed)
	},

	"a delete ends the wait": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(61, 3*ps)
		b := create(t, s, f)
		write(t, b, f, 0, 1)
		r, waits := watched(t, b, store.ReadOptions{})
		got := readAll(r)
		equal(t, "waits for", <-waits, 2)
		ok(t, s.Delete(f.digest))
		res := <-got
		is(t, res.err, store.ErrNotFound)
		same(t, "before that", res.b, f.content[:2*ps])
	},

	"reads on over commit, release and delete": func(t *testing.T, open Open) {
		f := fix(62, 4*ps)
		for name, rest := range map[string]func(r *store.Reader) ([]byte, error){
			"read": func(r *store.Reader) ([]byte, error) { return io.ReadAll(r) },
			"writeto": func(r *store.Reader) ([]byte, error) {
				var w recorder
				_, err := r.WriteTo(&w)
				return w.b, err
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := open(t, t.TempDir(), 0)
				b, err := s.Create(f.digest, f.size())
				ok(t, err)
				write(t, b, f, 0, 1, 2, 3)
				r := b.NewReader(t.Context(), store.ReadOptions{})
				defer r.Close()
				head := make([]byte, ps/2)
				_, err = io.ReadFull(r, head)
				ok(t, err)
				ok(t, b.Commit(true))
				b.Release()
				_, err = io.ReadFull(r, head)
				ok(t, err)
				ok(t, s.Delete(f.digest))
				tail, err := rest(r)
				ok(t, err)
				same(t, "content", tail, f.content[ps:])
			})
		}
	},

	"is not confused by pieces it does not wait for": func(t *testing.T, open Open) {
		synctest.Test(t, func(t *testing.T) {
			s := open(t, t.TempDir(), 0)
			f := fix(63, 8*ps)
			b := create(t, s, f)
			r, waits := watched(t, b, store.ReadOptions{})
			got := readAll(r)
			synctest.Wait()
			equal(t, "waits", len(waits), 1)
			write(t, b, f, 1, 2, 3, 4)
			synctest.Wait()
			equal(t, "waits", len(waits), 1) // slept on
			write(t, b, f, 0)
			synctest.Wait()
			equal(t, "waits", len(waits), 2)
			ok(t, r.Close())
			<-got
			ok(t, s.Close())
		})
	},
}

// recorder is a writer with nothing but Write.
type recorder struct{ b []byte }

func (w *recorder) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}
