package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// size of what is written, in bytes.
const size = 1 << 20

// Finding is what a Prober found.
type Finding struct {
	Path        string  `json:"path"`
	Free        int64   `json:"free"`  // bytes that this user may still write
	Total       int64   `json:"total"` // bytes
	WriteMillis float64 `json:"writeMillis"`
	Full        bool    `json:"full,omitempty"` // the write failed for want of room
	Hung        bool    `json:"hung,omitempty"` // the write has not ended
	Error       string  `json:"error,omitempty"`
}

// Prober probes a directory. A disk that hangs can keep one goroutine of it, and no
// more, until it comes back.
type Prober struct {
	Dir string

	write func(dir string) error // nil: write

	mu    sync.Mutex
	since time.Time // of a write that has not ended
	wg    sync.WaitGroup
}

// Probe writes, and waits until ctx ends.
func (p *Prober) Probe(ctx context.Context) Finding {
	began := time.Now()
	f := Finding{Path: p.Dir}
	p.mu.Lock()
	if since := p.since; !since.IsZero() {
		p.mu.Unlock()
		f.hang(since)
		return f
	}
	p.since = began
	p.mu.Unlock()
	done := make(chan Finding, 1)
	p.wg.Go(func() {
		f := p.probe()
		p.mu.Lock()
		p.since = time.Time{}
		p.mu.Unlock()
		done <- f
	})
	select {
	case f = <-done:
	case <-ctx.Done():
		f.hang(began)
	}
	return f
}

func (f *Finding) hang(since time.Time) {
	took := time.Since(since)
	f.Hung, f.WriteMillis = true, millis(took)
	f.Error = fmt.Sprintf("a write of 1 MiB that was begun %s ago has not ended", took.Round(100*time.Millisecond))
}

func (p *Prober) probe() Finding {
	f := Finding{Path: p.Dir}
	do := p.write
	if do == nil {
		do = write
	}
	began := time.Now()
	err := do(p.Dir)
	f.WriteMillis = millis(time.Since(began))
	if err != nil {
		f.Error = err.Error()
		f.Full = errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.Dir, &st); err == nil {
		f.Free, f.Total = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	} else if f.Error == "" {
		f.Error = err.Error()
	}
	return f
}

// write writes a file that is on the disk before it is removed.
func write(dir string) error {
	f, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(bytes.Repeat([]byte{0xa5}, size))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
