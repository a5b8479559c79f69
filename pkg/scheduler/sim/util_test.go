package sim

import (
	"fmt"
	"testing"
	"time"
)

func timeline(c Config) string {
	w := newWorld(c.withDefaults())
	out := ""
	var acc, seed float64
	var n int
	bucket := 500 * time.Millisecond
	next := bucket
	w.net.probe = func() {
		s := 0.0
		for _, h := range w.pullers {
			for _, f := range h.down.flows {
				s += f.rate
			}
		}
		acc += s / (float64(len(w.pullers)) * c.withDefaults().Link.Down)
		for _, f := range w.hosts[0].up.flows {
			seed += f.rate / w.hosts[0].up.rate
		}
		n++
		if w.clock.now >= next {
			out += fmt.Sprintf(" %.2f/%.2f", acc/float64(n), seed/float64(n))
			acc, seed, n = 0, 0, 0
			next += bucket
		}
	}
	w.run()
	return fmt.Sprintf("%.3f:", w.report().Ratio) + out
}

func TestTimeline(t *testing.T) {
	for _, c := range []Config{{Hosts: 32, Seed: 1}, {Hosts: 8, Seed: 1}} {
		t.Log(timeline(c))
		c.Giver.Slots = 16
		t.Log(timeline(c))
	}
}
