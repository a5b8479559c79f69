package store_test

import (
	"io"
	"net"
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

// go test -run '^$' -bench . ./pkg/store/
// The directory is below TMPDIR: set it to measure another disk.

const benchSize = 256 << 20 // 1024 pieces of 256 KiB

func benchStore(b *testing.B) (*store.Store, crashBlob) {
	b.Helper()
	s, err := store.Open(b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s, crashFixture(5000, benchSize)
}

func benchFill(b *testing.B, s *store.Store, f crashBlob) *store.Blob {
	b.Helper()
	h, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		b.Fatal(err)
	}
	for i := range f.g.Count() {
		if _, err := h.WritePiece(i, f.piece(i)); err != nil {
			b.Fatal(err)
		}
	}
	return h
}

// BenchmarkSmall: 1,000 blobs of 32 KiB stored whole, flushed and not.
func BenchmarkSmall(b *testing.B) {
	for name, put := range map[string]func(*store.Store, crashBlob) error{
		"Put":   func(s *store.Store, f crashBlob) error { return s.Put(f.digest, f.content, store.Meta{}) },
		"Cache": func(s *store.Store, f crashBlob) error { return s.Cache(f.digest, f.content) },
	} {
		b.Run(name, func(b *testing.B) {
			s, err := store.Open(b.TempDir(), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			blobs := make([]crashBlob, 1000)
			for i := range blobs {
				blobs[i] = crashFixture(uint64(i), 32<<10)
			}
			for b.Loop() {
				for _, f := range blobs {
					if err := put(s, f); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				for _, f := range blobs {
					if err := s.Delete(f.digest); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(blobs)), "µs/blob")
		})
	}
}

// BenchmarkWritePiece: one piece written and marked, page cache only.
func BenchmarkWritePiece(b *testing.B) {
	s, f := benchStore(b)
	h, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Release()
	b.SetBytes(int64(f.g.Len(0)))
	n := 0
	for b.Loop() {
		if n == f.g.Count() {
			b.StopTimer()
			if err := h.Discard(); err != nil {
				b.Fatal(err)
			}
			n = 0
			b.StartTimer()
		}
		if _, err := h.WritePiece(n, f.piece(n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkPut: a manifest, with all its flushes.
func BenchmarkPut(b *testing.B) {
	s, _ := benchStore(b)
	for n := uint64(0); b.Loop(); n++ {
		f := crashFixture(n, 2000)
		if err := s.Put(f.digest, f.content, store.Meta{MediaType: "application/vnd.oci.image.manifest.v1+json"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommit: 256 MiB flushed and renamed, with and without hashing.
func BenchmarkCommit(b *testing.B) {
	for name, verify := range map[string]bool{"checked": false, "verify": true} {
		b.Run(name, func(b *testing.B) {
			s, f := benchStore(b)
			b.SetBytes(benchSize)
			for b.Loop() {
				b.StopTimer()
				h := benchFill(b, s, f)
				b.StartTimer()
				if err := h.Commit(verify); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				h.Release()
				if err := s.Delete(f.digest); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkCheck: 256 MiB read back past the page cache and hashed.
func BenchmarkCheck(b *testing.B) {
	s, f := benchStore(b)
	h := benchFill(b, s, f)
	defer h.Release()
	if err := h.Commit(false); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		if _, err := s.Check(f.digest, atOnce); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkServe: a piece to a TCP connection on loopback (sendfile), the same
// through a buffer (as to TLS), and a whole partial blob by a Reader.
func BenchmarkServe(b *testing.B) {
	s, f := benchStore(b)
	h := benchFill(b, s, f)
	defer h.Release()
	if err := h.Settle(); err != nil {
		b.Fatal(err)
	}
	conn := drain(b)
	run := func(name string, size int64, send func(n int) error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if err := send(n % f.g.Count()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("sendfile", int64(f.g.Len(0)), func(n int) error { _, err := h.WritePieces(conn, []int{n}); return err })
	run("buffer", int64(f.g.Len(0)), func(n int) error { _, err := h.WritePieces(struct{ io.Writer }{conn}, []int{n}); return err })
	run("reader", benchSize, func(int) error {
		r := h.NewReader(b.Context(), store.ReadOptions{})
		defer r.Close()
		_, err := r.WriteTo(conn)
		return err
	})
}

// drain returns a connection whose other end reads everything.
func drain(b *testing.B) net.Conn {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err == nil {
			io.Copy(struct{ io.Writer }{io.Discard}, c)
			c.Close()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close(); l.Close(); <-done })
	return c
}
