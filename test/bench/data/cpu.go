package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf is the user and system time of all threads of a running process, ended
// ones included, to the nanosecond: the clock that clock_getcpuclockid(3) names.
func cpuOf(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("processor clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

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

// heat makes memory for twice the blob ready to use: it writes a file and removes
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
	for n := int64(0); n < 2*b.size; n += int64(len(buf)) {
		if _, err := f.Write(buf); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

func findNginx() (string, error) {
	if path, err := exec.LookPath("nginx"); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path := filepath.Join(dir, "nginx"); isFile(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no nginx; as root: RUNLEVEL=1 apt-get install --no-install-recommends nginx")
}

func isFile(path string) bool {
	in, err := os.Stat(path)
	return err == nil && in.Mode().IsRegular()
}
