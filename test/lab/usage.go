package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a program has taken so far.
type Usage struct {
	CPU     time.Duration // user and system, over all its runs
	PeakRSS int64         // bytes; the largest resident set of the run under way, since ResetPeak if that was called
}

// Usage reads what the program has taken, running or ended.
func (p *Process) Usage() (Usage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exec == nil {
		return Usage{}, nil
	}
	select {
	case <-p.done:
		// What the kernel says of an ended program's memory may be ours at the fork.
		return Usage{CPU: p.past + p.ended().CPU}, nil
	default:
	}
	u, err := usageOf(p.exec.Process.Pid)
	if err != nil {
		return u, fmt.Errorf("usage of %s: %w", p.Title(), err)
	}
	u.CPU += p.past
	return u, nil
}

// ResetPeak makes PeakRSS count from now on.
func (p *Process) ResetPeak() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.exec.Process.Pid), []byte("5"), 0)
}

// clockTick is the kernel's USER_HZ, the unit of times in /proc: 100 a second on
// every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

func usageOf(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	// The second field is the name in brackets and may hold anything.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 13 {
		return Usage{}, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return Usage{}, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{CPU: time.Duration(user+system) * clockTick}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for _, line := range strings.Split(string(status), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			u.PeakRSS = kib << 10
		}
	}
	return u, nil
}
