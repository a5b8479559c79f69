package storetest

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

var readTests = map[string]func(*testing.T, Open){
	"pieces of a partial and of a complete blob": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(40, 4*ps+9)
		b := create(t, s, f)
		write(t, b, f, 1, 4)
		check := func(held ...int) {
			t.Helper()
			for i := -1; i <= f.g.Count(); i++ {
				buf := make([]byte, 0, ps)
				got, err := b.ReadPiece(i, buf)
				if !slices.Contains(held, i) {
					is(t, err, store.ErrNotHeld)
					continue
				}
				ok(t, err)
				same(t, "piece", got, f.piece(i))
				if &got[0] != &buf[:1][0] {
					t.Fatal("the caller's buffer was not used")
				}
				got, err = b.ReadPiece(i, nil)
				ok(t, err)
				same(t, "piece", got, f.piece(i))
			}
		}
		check(1, 4)
		write(t, b, f, 0, 2, 3)
		check(0, 1, 2, 3, 4)
		ok(t, b.Commit(true))
		check(0, 1, 2, 3, 4)
	},

	"sets of pieces": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(41, 7*ps+100)
		b := create(t, s, f)
		write(t, b, f, 0, 1, 2, 5, 6, 7)
		sets := [][]int{nil, {0}, {7}, {0, 1, 2}, {2, 1, 0}, {0, 2, 5, 6, 7}, {5, 5}, {7, 0}}
		check := func() {
			t.Helper()
			for _, set := range sets {
				var want []byte
				for _, i := range set {
					want = append(want, f.piece(i)...)
				}
				for name, send := range writers(t) {
					got, n, err := send(func(w io.Writer) (int64, error) { return b.WritePieces(w, set) })
					ok(t, err)
					equal(t, "sent", n, int64(len(want)))
					same(t, name, got, want)
				}
			}
		}
		check()
		var buf bytes.Buffer
		for _, set := range [][]int{{0, 1, 3}, {-1}, {8}, {4}} {
			_, err := b.WritePieces(&buf, set)
			is(t, err, store.ErrNotHeld)
			equal(t, "sent", buf.Len(), 0)
		}
		write(t, b, f, 3, 4)
		ok(t, b.Commit(true))
		check()
	},
}

// writers are the kinds of destinations: with sendfile, with a ReaderFrom, and
// plain.
func writers(t *testing.T) map[string]func(send func(io.Writer) (int64, error)) ([]byte, int64, error) {
	return map[string]func(send func(io.Writer) (int64, error)) ([]byte, int64, error){
		"buffer": func(send func(io.Writer) (int64, error)) ([]byte, int64, error) {
			var b bytes.Buffer
			n, err := send(&b)
			return b.Bytes(), n, err
		},
		"plain": func(send func(io.Writer) (int64, error)) ([]byte, int64, error) {
			var b bytes.Buffer
			n, err := send(struct{ io.Writer }{&b})
			return b.Bytes(), n, err
		},
		"tcp": func(send func(io.Writer) (int64, error)) ([]byte, int64, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			ok(t, err)
			defer l.Close()
			var n int64
			done := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					n, err = send(c)
					c.Close()
				}
				done <- err
			}()
			c, err := net.Dial("tcp", l.Addr().String())
			ok(t, err)
			defer c.Close()
			got, err := io.ReadAll(c)
			ok(t, err)
			err = <-done
			return got, n, err
		},
	}
}
