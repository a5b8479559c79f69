package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// watchEvery is how often links and processors are looked at during a run.
const watchEvery = 250 * time.Millisecond

// watch follows a run: what each link carries, how busy the machine is.
type watch struct {
	w     *world
	p     *pulling
	start reading
	curve []sample
	err   error
	done  chan struct{}

	forwarded float64 // see outcome.ForwardedWhileFetching
}

// reading is all counters at one moment.
type reading struct {
	at      time.Time
	traffic lab.Traffic
	cpu     machineCPU
	own     time.Duration // this program
	peerds  time.Duration
	seeder  time.Duration
}

// read takes all counters.
func (w *world) read() (r reading, err error) {
	r.at = time.Now()
	if r.traffic, err = w.lab.Traffic(); err != nil {
		return r, err
	}
	if r.cpu, err = readMachineCPU(); err != nil {
		return r, err
	}
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return r, fmt.Errorf("own processor time: %w", err)
	}
	r.own = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	for _, p := range w.peerds {
		u, err := p.Usage()
		if err != nil {
			return r, err
		}
		r.peerds += u.CPU
	}
	if p := w.sourceProcess(); p != nil {
		u, err := p.Usage()
		if err != nil {
			return r, err
		}
		r.seeder = u.CPU
	}
	return r, nil
}

// watch begins to follow p; start is the reading from just before it began.
func (w *world) watch(p *pulling, start reading) *watch {
	c := &watch{w: w, p: p, start: start, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		last := start
		for {
			select {
			case <-p.done:
				return
			case <-tick.C:
			}
			now := reading{at: time.Now()}
			var err1, err2 error
			now.traffic, err1 = w.lab.Traffic()
			now.cpu, err2 = readMachineCPU()
			if c.err = errors.Join(err1, err2); c.err != nil {
				return
			}
			c.add(last, now)
			last = now
		}
	}()
	return c
}

// add appends the sample between two readings.
func (c *watch) add(last, now reading) {
	w := c.w
	took := now.at.Sub(last.at).Seconds()
	d := now.traffic.Since(last.traffic)
	share := func(bytes int64, rate lab.Rate) float64 {
		return 8 * float64(bytes) / took / (float64(rate) * w.s.share())
	}
	s := sample{At: now.at.Sub(c.p.start).Seconds(), Busy: now.cpu.since(last.cpu).busy(), Pulling: c.p.pullingNow()}
	for i, h := range w.hosts {
		m := payload(d[h.Name])
		s.Receive += share(m.Received, w.s.hostRate(i)) / float64(len(w.hosts))
		s.Send += share(m.Sent, w.s.hostRate(i)) / float64(len(w.hosts))
	}
	s.Seeder = share(payload(d[w.source().Name]).Sent, w.sourceRate())
	s.Upstream = share(payload(d[w.upstream.Host.Name]).Sent, w.s.rate)
	c.curve = append(c.curve, s)

	total := now.traffic.Since(c.start.traffic)[w.seederHost.Name]
	if w.s.cold && c.forwarded == 0 && total.ReceivedPayload() >= w.image.Size() {
		c.forwarded = float64(total.SentPayload()) / float64(w.image.Size())
	}
}

// source is the host that has the image at the start, and sourceRate its speed.
func (w *world) source() *lab.Host {
	if w.holderHost != nil {
		return w.holderHost
	}
	return w.seederHost
}

// sourceProcess is the daemon there; nil on other systems than Samara.
func (w *world) sourceProcess() *lab.Process {
	switch {
	case w.holder != nil:
		return w.holder.Process
	case w.seeder != nil:
		return w.seeder.Process
	}
	return nil
}

func (w *world) sourceRate() lab.Rate {
	if w.holderHost != nil {
		return w.s.rate
	}
	return w.s.seederRate()
}

// machineCPU is what the processors have done since the machine started, in seconds.
type machineCPU struct{ used, idle, softirq, stolen float64 }

func (m machineCPU) since(b machineCPU) machineCPU {
	return machineCPU{m.used - b.used, m.idle - b.idle, m.softirq - b.softirq, m.stolen - b.stolen}
}

// busy is the share of processor time that was not idle; what a hypervisor took
// away was not idle either.
func (m machineCPU) busy() float64 {
	all := m.used + m.stolen + m.idle
	if all == 0 {
		return 0
	}
	return (m.used + m.stolen) / all
}

// readMachineCPU reads the first line of /proc/stat: user, nice, system, idle,
// iowait, irq, softirq, steal in 1/100 s.
func readMachineCPU() (machineCPU, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineCPU{}, fmt.Errorf("read processor use: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return parseCPU(line)
}

func parseCPU(line string) (machineCPU, error) {
	var user, nice, system, idle, iowait, irq, softirq, steal float64
	if _, err := fmt.Sscanf(line, "cpu %f %f %f %f %f %f %f %f", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		return machineCPU{}, fmt.Errorf("read processor use: %q: %w", line, err)
	}
	const hz = 100
	return machineCPU{(user + nice + system + irq + softirq) / hz, (idle + iowait) / hz, softirq / hz, steal / hz}, nil
}
