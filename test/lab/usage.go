package lab

import (
	"fmt"
	"time"

	"github.com/samara-p2p/samara/test/bench/proc"
)

// Usage is what a program has taken so far.
type Usage struct {
	CPU     time.Duration // user and system, over all its runs
	PeakRSS int64         // bytes; the largest resident set of the run under way, since ResetPeak if that was called; 0 once it has ended
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
	pid := p.exec.Process.Pid
	cpu, err := proc.CPU(pid)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of %s: %w", p.Title(), err)
	}
	mem, err := proc.MemoryOf(pid)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of %s: %w", p.Title(), err)
	}
	return Usage{CPU: p.past + cpu, PeakRSS: mem.Peak}, nil
}

// ResetPeak makes PeakRSS count from now on.
func (p *Process) ResetPeak() error { return proc.ResetPeak(p.Pid()) }
