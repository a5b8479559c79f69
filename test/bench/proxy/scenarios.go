package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/bench/report"
)

// cold adds an image of one blob that takes 4 s to fetch.
func (b *bench) cold(w *world, tag string) digest.Digest {
	img := w.up.AddImage(repository, tag, int(b.size))
	w.up.SetFault(img.Layers[0].String(), upstreamtest.Fault{Rate: int(b.size / 4)})
	return img.Layers[0]
}

// pulls: all clients want the same cold blob at once; then, of another one, each
// client comes a little after the one before.
func (b *bench) pulls(ctx context.Context, w *world) error {
	d := b.cold(w, "v1")
	got := make([]atomic.Int64, b.clients)
	g, gctx := errgroup.WithContext(ctx)
	for i := range got {
		g.Go(func() error {
			return w.blob(gctx, d, func(n int64) error { got[i].Store(n); return nil })
		})
	}
	least := math.Inf(1)
	for w.sent(d) < 0.5 && gctx.Err() == nil {
		if err := wait(gctx, 10*time.Millisecond); err != nil {
			break // g.Wait tells why
		}
	}
	half := w.up.BytesServed(d)
	for i := range got {
		least = min(least, float64(got[i].Load())/float64(half))
	}
	if err := g.Wait(); err != nil {
		return err
	}
	what := fmt.Sprintf("%d cold pulls at once", b.clients)
	b.row("pulls", what+": upstream bytes / blob", "x", report.AtMost(1.01), w.sent(d), fmt.Sprintf("%d requests", w.up.Count(http.MethodGet, d.String())))
	b.row("pulls", what+": least that a client has of what was sent", "x", report.AtLeast(0.8), least, "when half was sent: all stream at once")

	d = b.cold(w, "v2")
	var worst atomic.Int64
	lead := make(chan struct{})
	g, gctx = errgroup.WithContext(ctx)
	for i := range b.clients {
		g.Go(func() error {
			if i > 0 {
				select {
				case <-lead: // the first piece exists
				case <-gctx.Done():
					return gctx.Err()
				}
				if err := wait(gctx, time.Duration(i)*200*time.Millisecond); err != nil {
					return err
				}
			}
			began, first := time.Now(), true
			return w.blob(gctx, d, func(int64) error {
				if took := int64(time.Since(began)); first && i == 0 {
					close(lead)
				} else if first {
					for old := worst.Load(); took > old && !worst.CompareAndSwap(old, took); old = worst.Load() {
					}
				}
				first = false
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.row("pulls", fmt.Sprintf("first byte for clients 2..%d of a fill", b.clients), "ms", report.AtMost(50), float64(worst.Load())/1e6, "the latest of them")
	b.row("pulls", "upstream bytes / blob of that fill", "x", report.AtMost(1.01), w.sent(d), "")
	return nil
}

// coldRange: 1 MiB at three quarters of a cold blob, of an upstream so slow that
// pieces can be counted.
func (b *bench) coldRange(ctx context.Context, w *world) error {
	const n = mib
	d := b.cold(w, "v1")
	w.up.SetFault(d.String(), upstreamtest.Fault{Rate: 2 * mib})
	first := b.size * 3 / 4
	began := time.Now()
	resp, err := w.get(ctx, w.blobURL(d), fmt.Sprintf("bytes=%d-%d", first, first+n-1))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fetched, header := w.up.BytesServed(d), time.Since(began)
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("status %s to a range", resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if string(body) != string(w.up.Blob(d)[first:first+n]) {
		return errors.New("wrong bytes")
	}
	whole := time.Since(began)
	st, err := w.status(ctx)
	if err != nil || len(st.Blobs) == 0 || st.Blobs[0].PieceCount == 0 {
		return fmt.Errorf("the status page knows no such blob: %w", err)
	}
	piece := math.Ceil(float64(b.size) / float64(st.Blobs[0].PieceCount))
	b.row("range", "cold 1 MiB range: pieces that the upstream had sent at the 206", "pieces", report.AtMost(2), float64(fetched)/piece, fmt.Sprintf("of %.0f KiB", piece/1024))
	b.row("range", "cold 1 MiB range: header", "ms", report.Target{}, float64(header)/1e6, "")
	b.row("range", "cold 1 MiB range: all of it", "ms", report.AtMost(2000), float64(whole)/1e6, fmt.Sprintf("reading in order takes %d s", first/(2*mib)))
	return nil
}

// abort: the client that began the fill leaves after 2 s of 4.
func (b *bench) abort(ctx context.Context, w *world) error {
	d := b.cold(w, "v1")
	began, left := time.Now(), errors.New("leaves")
	err := w.blob(ctx, d, func(int64) error {
		if time.Since(began) > 2*time.Second {
			return left
		}
		return nil
	})
	if !errors.Is(err, left) {
		return fmt.Errorf("the leader: %w", err)
	}
	had := w.sent(d)
	if err := w.blob(ctx, d, func(int64) error { return nil }); err != nil {
		return err
	}
	b.row("abort", "leader leaves after 2 s, next pull: upstream bytes / blob", "x", report.AtMost(1.01), w.sent(d), fmt.Sprintf("%.2f when it left", had))
	return nil
}

// down: the upstream's port is closed.
func (b *bench) down(ctx context.Context, w *world) error {
	w.up.AddImage(repository, "v1", 1000)
	if _, err := w.tag(ctx, "v1"); err != nil {
		return err
	}
	w.up.Close()
	return b.failing(ctx, w, "down")
}

// hanging: the upstream takes requests and never answers.
func (b *bench) hanging(ctx context.Context, w *world) error {
	w.up.AddImage(repository, "v1", 1000)
	if _, err := w.tag(ctx, "v1"); err != nil {
		return err
	}
	w.up.SetFault("*", upstreamtest.Fault{Hang: true})
	w.up.SetFault("v2", upstreamtest.Fault{Hang: true})
	return b.failing(ctx, w, "hanging")
}

// failing measures a cached tag and a start, as long as the upstream fails.
func (b *bench) failing(ctx context.Context, w *world, how string) error {
	for _, when := range []string{"cached tag", "cached tag after a restart"} {
		worst := time.Duration(0)
		for began := time.Now(); time.Since(began) < 12*time.Second; {
			took, err := w.tag(ctx, "v1")
			if err != nil {
				return err
			}
			worst = max(worst, took)
			if err := wait(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
		b.row(how, when+": the slowest answer in 12 s", "s", report.AtMost(3), worst.Seconds(), "")
		open := report.Row{Scenario: how, What: when + ": with the breaker open", Unit: "ms", Target: report.AtMost(50)}
		for range 20 {
			took, err := w.tag(ctx, "v1")
			if err != nil {
				return err
			}
			open.Values = append(open.Values, float64(took)/1e6)
		}
		b.rep.Add(os.Stdout, open)
		w.stop()
		took, err := w.start(ctx)
		if err != nil {
			return err
		}
		b.row(how, "start of the seeder", "s", report.AtMost(3), took.Seconds(), "")
	}
	return nil
}

// Slow readers read 4 KiB four times a second.
const (
	slowStep = 4 << 10
	slowTick = 250 * time.Millisecond
)

// slowReaders: what they cost of the seeder's memory, beyond what it takes with
// the same blob cached and nobody reading.
func (b *bench) slowReaders(ctx context.Context, w *world) error {
	d := b.cold(w, "v1")
	if err := w.blob(ctx, d, func(int64) error { return nil }); err != nil {
		return err
	}
	if err := wait(ctx, 5*time.Second); err != nil { // settle
		return err
	}
	pid := w.cmd.Process.Pid
	if err := proc.ResetPeak(pid); err != nil {
		return err
	}
	before, err := proc.MemoryOf(pid)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for range b.readers {
		g.Go(func() error { return w.trickle(gctx, d, b.slowFor) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	after, err := proc.MemoryOf(pid)
	if err != nil {
		return err
	}
	b.row("readers", fmt.Sprintf("%d slow readers: growth of memory", b.readers), "MiB", report.AtMost(30),
		float64(after.Peak-before.Resident)/mib, fmt.Sprintf("%.0f MiB before, peak %.0f", float64(before.Resident)/mib, float64(after.Peak)/mib))
	return nil
}

func (w *world) trickle(ctx context.Context, d digest.Digest, long time.Duration) error {
	resp, err := w.get(ctx, w.blobURL(d), "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("blob: %s", resp.Status)
	}
	buf := make([]byte, slowStep)
	for end := time.Now().Add(long); time.Now().Before(end); {
		if _, err := io.ReadFull(resp.Body, buf); err != nil {
			return err
		}
		if err := wait(ctx, slowTick); err != nil {
			return err
		}
	}
	return nil
}
