package p2p

import (
	"context"
	"io"
	"sync"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

// BenchmarkPieces moves 4 MiB pieces, 4 asks at a time, both ends in this
// process; cpu-s/GB is what both spend.
func BenchmarkPieces(b *testing.B) {
	for name, change := range map[string]func(a, b *Config){
		"tls":     nil,
		"plain":   func(ca, cb *Config) { ca.TrustedNetwork, cb.TrustedNetwork = true, true },
		"streams": func(_, cb *Config) { cb.PiecesAdvertise = "127.0.0.1:1" },
	} {
		b.Run(name, func(b *testing.B) {
			const size = 4 << 20
			x, y := pair(b, change)
			data := make([]byte, size)
			y.rec.give = func(_ context.Context, _ peer.ID, a Ask) (*Gift, error) {
				return &Gift{Pieces: a.Pieces, Lengths: []int{size}, Body: func(w io.Writer) (int64, error) {
					n, err := w.Write(data)
					return int64(n), err
				}}, nil
			}
			b.SetBytes(size)
			before := cpu()
			var wg sync.WaitGroup
			work := make(chan int)
			for range 4 {
				wg.Go(func() {
					buf := make([]byte, size)
					for p := range work {
						ans, err := x.Ask(b.Context(), y.ID(), Ask{Digest: testDigest, Pieces: []int{p}})
						if err != nil {
							b.Error(err)
							continue
						}
						if _, _, err := ans.Next(buf); err != nil {
							b.Error(err)
						}
						ans.Close()
					}
				})
			}
			for p := range b.N {
				work <- p % 1000
			}
			close(work)
			wg.Wait()
			b.ReportMetric((cpu()-before)/float64(b.N)/size*1e9, "cpu-s/GB")
		})
	}
}

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
