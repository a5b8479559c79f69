package sim

import (
	"testing"
	"time"
)

func try(t *testing.T, c Config, name string, a ...any) {
	start := time.Now()
	r := Run(c)
	t.Logf("%-20s %v: %.3f seeder %.3f ttfb %.2f asks %.2f control %.2f%% (%.1fs)", name, a, r.Ratio, r.Seeder, r.FirstByte.Seconds(), r.Asks, 100*r.Control, time.Since(start).Seconds())
}

func TestTune(t *testing.T) {
	for _, n := range []int{8, 32, 128} {
		base := Config{Hosts: n, Seed: 1}
		for _, h := range []int{1, 10, 30, 100} {
			c := base
			c.HaveWait = time.Duration(h) * time.Millisecond
			try(t, c, "havewait", n, h)
		}
		for _, m := range []int{16, 32, 48} {
			c := base
			c.Download.MaxRequests = m
			try(t, c, "maxreq", n, m)
		}
	}
}
