package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/samara-p2p/samara/internal/status"
)

// bars shows each host's progress: redrawn in place on a terminal, a line every
// two seconds elsewhere.
type bars struct {
	w     io.Writer
	tty   bool
	s     *stage
	drawn int // lines to go up before the next drawing
	start time.Time
	last  []*status.Status

	mu   sync.Mutex
	ends []string // what became of each host's pull; "" = under way
}

func newBars(w io.Writer, tty bool, s *stage) *bars {
	return &bars{w: w, tty: tty, s: s, start: time.Now(), ends: make([]string, len(s.peers)), last: make([]*status.Status, len(s.peers))}
}

// finished notes that a host's client has ended. Safe for concurrent use.
func (b *bars) finished(host int, took time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ends[host] = fmt.Sprintf("done in %.1f s", took.Seconds())
	if err != nil {
		b.ends[host] = "FAILED"
	}
}

// run draws until done is closed.
func (b *bars) run(ctx context.Context, done <-chan struct{}) {
	every := 2 * time.Second
	if b.tty {
		every = 200 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			b.draw(ctx)
		}
	}
}

// end draws the last state.
func (b *bars) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	b.draw(ctx)
}

func (b *bars) draw(ctx context.Context) {
	for i, st := range b.s.statuses(ctx) {
		if st != nil {
			b.last[i] = st
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out strings.Builder
	if b.tty && b.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", b.drawn)
	}
	if !b.tty {
		fmt.Fprintf(&out, "%5.1f s", time.Since(b.start).Seconds())
	}
	for i, p := range b.s.peers {
		if b.tty {
			fmt.Fprintf(&out, "\x1b[K%s\n", b.line(p.Host.Name, i))
		} else {
			fmt.Fprintf(&out, "  %s %3.0f%%", p.Host.Name, 100*b.share(i))
		}
	}
	if !b.tty {
		out.WriteByte('\n')
	}
	b.drawn = len(b.s.peers)
	_, _ = io.WriteString(b.w, out.String())
}

// share is how much of the image a host has, 0 to 1.
func (b *bars) share(i int) float64 {
	st := b.last[i]
	if st == nil {
		return 0
	}
	return min(1, float64(st.Bytes.FromPeers+st.Bytes.FromSeeder+st.Bytes.FromUpstream)/float64(b.s.image.Size()))
}

const barWidth = 40

// line is one host's bar: '=' came from peers, '-' from the seeder, 'u' from the
// upstream.
func (b *bars) line(name string, i int) string {
	var parts [3]int64
	var rate int64
	if st := b.last[i]; st != nil {
		parts = [3]int64{st.Bytes.FromPeers, st.Bytes.FromSeeder, st.Bytes.FromUpstream}
		for _, bl := range st.Blobs {
			if bl.State == status.Fetching {
				rate += bl.RateBytesPerSec
			}
		}
	}
	var bar strings.Builder
	for k, mark := range []string{"=", "-", "u"} {
		n := int(float64(parts[k]) / float64(b.s.image.Size()) * barWidth)
		bar.WriteString(strings.Repeat(mark, min(n, barWidth-bar.Len())))
	}
	note := b.ends[i]
	if note == "" {
		note = fmt.Sprintf("%.0f Mbit/s", float64(rate)*8/1e6)
	}
	return fmt.Sprintf("%-7s [%-*s] %3.0f%%  %s", name, barWidth, bar.String(), 100*b.share(i), note)
}
