package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/samara-p2p/samara/test/lab"
)

// perGB is CPU-seconds per 10^9 bytes.
func perGB(cpu time.Duration, bytes int64) float64 { return cpu.Seconds() / float64(bytes) * 1e9 }

// counters are the figures of a /metrics page by name; those of one name add up.
type counters map[string]float64

func parseCounters(text string) counters {
	c := make(counters)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ = strings.Cut(name, "{")
		if x, err := strconv.ParseFloat(value, 64); err == nil {
			c[name] += x
		}
	}
	return c
}

// heat makes memory for four times the blob ready to use: it writes a file and removes
// it. A virtual machine's host takes free memory back, and the first use of a page
// then costs the guest more than all else that is measured here; whom that strikes
// is chance.
func (b *bench) heat() error {
	path := filepath.Join(b.lab.Dir(), "heat")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer f.Close()
	buf := make([]byte, 1<<20)
	for n := int64(0); n < 4*b.size; n += int64(len(buf)) {
		if _, err := f.Write(buf); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// fillArg has this program use up what processor time nobody else wants.
const fillArg = "fill"

// fill starts a process for each processor that works only when it would idle
// (SCHED_IDLE). Processors that are threads of one core slow each other down, so
// the time a byte costs depends on whether the machine's other processors work:
// a swarm leaves them less idle than one small program does. So they always work.
func (b *bench) fill(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range runtime.NumCPU() {
		if _, err := b.files.Start(ctx, lab.Command{Name: fmt.Sprintf("fill%d", i), Path: self, Args: []string{fillArg}}); err != nil {
			return err
		}
	}
	return nil
}

// spin runs until the process is killed, which the lab does at its end.
func spin() error {
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("SCHED_IDLE: %w", err)
	}
	var block [16 << 10]byte
	for {
		sum := sha256.Sum256(block[:])
		copy(block[:], sum[:])
	}
}
