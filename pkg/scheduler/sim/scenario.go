package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Scenario is a named world.
type Scenario struct {
	Name  string
	About string
	Config
}

// Scenarios are the worlds that the policy is tuned and held to; sorted from
// plain to odd. Links are 100 Mbit/s both ways, the image is one blob of
// 256 MiB, everybody arrives at once, unless said otherwise.
func Scenarios() []Scenario {
	all := []Scenario{
		{"one", "one host alone with the seeder", Config{Hosts: 1}},
		{"two", "two hosts", Config{Hosts: 2}},
		{"burst-8", "8 hosts", Config{Hosts: 8}},
		{"burst-16", "16 hosts", Config{Hosts: 16}},
		{"burst-32", "32 hosts", Config{Hosts: 32}},
		{"burst-128", "128 hosts of 60 neighbours", Config{Hosts: 128}},
		{"cold-8", "8 hosts, the seeder fetches from an upstream of 100 Mbit/s", Config{Hosts: 8, Cold: true, Upstream: 100 * Mbit}},
		{"cold-16", "16 hosts, as above", Config{Hosts: 16, Cold: true, Upstream: 100 * Mbit}},
		{"cold-slow", "16 hosts, upstream of 25 Mbit/s", Config{Hosts: 16, Cold: true, Upstream: 25 * Mbit}},
		{"cold-fast", "16 hosts, upstream of 1 Gbit/s", Config{Hosts: 16, Cold: true, Upstream: 1000 * Mbit}},
		{"seeder-4x", "16 hosts, the seeder's link is 400 Mbit/s", Config{Hosts: 16, SeederLink: Symmetric(400)}},
		{"seeder-4x-25m", "16 hosts of 25 Mbit/s, the seeder's link is 100 Mbit/s", slowLinks(25, Config{Hosts: 16, SeederLink: Symmetric(100)})},
		{"seeder-4x-32", "32 hosts, as above", Config{Hosts: 32, SeederLink: Symmetric(400)}},
		{"seeder-quarter", "8 hosts, the seeder's link is 25 Mbit/s", Config{Hosts: 8, SeederLink: Symmetric(25)}},
		{"quarter-slow", "16 hosts, every fourth at 25 Mbit/s", Config{Hosts: 16, Links: everyFourth(100, 25)}},
		{"quarter-slow-25m", "16 hosts of 25 Mbit/s, every fourth at a quarter of that", slowLinks(25, Config{Hosts: 16, Links: everyFourth(25, 6.25)})},
		{"burst-16-25m", "16 hosts of 25 Mbit/s", slowLinks(25, Config{Hosts: 16})},
		{"burst-32-10m", "32 hosts of 10 Mbit/s", slowLinks(10, Config{Hosts: 32})},
		{"burst-32-5m", "32 hosts of 5 Mbit/s, 96 MiB", slowLinks(5, Config{Hosts: 32, Blobs: []int64{96 * MiB}})},
		{"asymmetric", "8 hosts of 100 down, 20 up, the seeder at 1 Gbit/s", Config{Hosts: 8, SeederLink: Symmetric(1000),
			Link: Link{Up: 20 * Mbit, Down: 100 * Mbit}}},
		{"fast", "8 hosts at 10 Gbit/s, 2 GiB", Config{Hosts: 8, Link: Symmetric(10000), Blobs: []int64{2 << 30}, Quantum: 100 * time.Microsecond}},
		{"burst-32-1g", "32 hosts of 1 Gbit/s", Config{Hosts: 32, Link: Symmetric(1000)}},
		{"layers", "8 hosts of 50 Mbit/s, nine layers of 512 KiB to 120 MiB", slowLinks(50, Config{Hosts: 8, Blobs: layers()})},
		{"mixed", "16 hosts, 40 layers of 1 KiB to 150 MiB", Config{Hosts: 16, Blobs: mixed()}},
		{"three-blobs", "8 hosts, three blobs of 80 MiB at once", Config{Hosts: 8, Blobs: []int64{80 * MiB, 80 * MiB, 80 * MiB}}},
		{"zones", "two zones of 16, 200 Mbit/s between them", Config{Hosts: 32, Zones: 2, ZoneLink: 200 * Mbit}},
		{"staggered", "32 hosts, one per second", Config{Hosts: 32, Arrive: every(time.Second)}},
		{"poisson", "32 hosts, on average one per 500 ms", Config{Hosts: 32, Arrive: poisson(500 * time.Millisecond)}},
		{"no-hint", "16 hosts that meet after a second", Config{Hosts: 16, NoHint: true}},
		{"one-holder", "15 hosts, no seeder, one host holds the image", Config{Hosts: 16, NoSeeder: true, Holders: 1}},
		{"two-holders", "14 hosts, no seeder, two hosts hold the image", Config{Hosts: 16, NoSeeder: true, Holders: 2}},
		{"warm-1", "15 hosts, the seeder and one host hold the image", Config{Hosts: 16, Holders: 1}},
		{"warm-4", "12 hosts, the seeder and four hosts hold the image", Config{Hosts: 16, Holders: 4}},
		{"no-seeder", "8 hosts, no seeder, upstream of 1 Gbit/s", Config{Hosts: 8, NoSeeder: true, Upstream: 1000 * Mbit}},
		{"killed-hosts", "32 hosts, 8 killed at random moments, restarted 5 s later", Config{Hosts: 32, Faults: killSome(32, 8)}},
		{"killed-3-of-8", "8 hosts, 3 killed half-way, for good", Config{Hosts: 8, Faults: []Fault{{10 * time.Second, 0, Kill}, {10 * time.Second, 1, Kill}, {11 * time.Second, 2, Kill}}}},
		{"killed-seeder", "8 hosts, seeder killed half-way, upstream of 100 Mbit/s", Config{Hosts: 8, Upstream: 100 * Mbit, Faults: []Fault{{11 * time.Second, -1, Kill}}}},
		{"killed-seeder-late", "8 hosts, seeder killed once it gave everything, no upstream", Config{Hosts: 8, Faults: []Fault{{0, -1, Kill}}}},
		{"restarted-seeder", "8 hosts, seeder killed half-way, back after 5 s, no upstream", Config{Hosts: 8, Faults: []Fault{{11 * time.Second, -1, Kill}, {16 * time.Second, -1, Restart}}}},
		{"frozen-seeder", "8 hosts, seeder frozen half-way, upstream of 100 Mbit/s", Config{Hosts: 8, Upstream: 100 * Mbit, Faults: []Fault{{11 * time.Second, -1, Freeze}}}},
		{"frozen-hosts", "8 hosts, 2 frozen half-way (they never finish)", Config{Hosts: 8, Faults: []Fault{{10 * time.Second, 0, Freeze}, {10 * time.Second, 1, Freeze}}, Limit: time.Minute}},
		{"liars", "8 hosts, 2 send wrong bytes", Config{Hosts: 8, Liars: 2}},
	}
	for k := range all {
		all[k].Seed = 1
	}
	return all
}

// Scale are worlds of 1,000 and of 10,000 hosts. With 10,000 the blob has 256
// pieces instead of 1,024: the log2(N)/K of the lower bound, and what is lost
// at start and end, weigh four times as much.
func Scale() []Scenario {
	var all []Scenario
	for _, n := range []int{1000, 10_000} {
		size, what := int64(256*MiB), "256 MiB"
		if n > 1000 {
			size, what = 64*MiB, "64 MiB"
		}
		add := func(kind, about string, c Config) {
			c.Seed, c.Hosts, c.Blobs = 1, n, []int64{size}
			all = append(all, Scenario{fmt.Sprintf("scale-%d%s", n, kind), fmt.Sprintf("%d hosts, %s%s", n, what, about), c})
		}
		add("", "", Config{})
		add("-zones", ", three zones", Config{Zones: 3})
		add("-churn", ", 1% of them a minute killed and back after 5 s", Config{Faults: churn(n, 0.01, 30*time.Second)})
		add("-seeder", ", seeder link 10x", Config{SeederLink: Symmetric(1000)})
	}
	return all
}

// Short is the 1,000 hosts that CI simulates within a minute.
func Short() Scenario {
	return Scenario{"scale-short", "1,000 hosts, 64 MiB", Config{Seed: 1, Hosts: 1000, Blobs: []int64{64 * MiB}}}
}

func everyFourth(fast, slow float64) func(int) Link {
	return func(h int) Link {
		if h%4 == 3 {
			return Symmetric(slow)
		}
		return Symmetric(fast)
	}
}

// slowLinks gives c links of so many Mbit/s each, and an upstream with ten times
// as much: a reader that waits too long goes there, which no run should see.
func slowLinks(mbit float64, c Config) Config {
	c.Link, c.Upstream, c.Quantum = Symmetric(mbit), 10*mbit*Mbit, 5*time.Millisecond
	return c
}

func every(d time.Duration) func(int) time.Duration {
	return func(h int) time.Duration { return time.Duration(h) * d }
}

func poisson(mean time.Duration) func(int) time.Duration {
	return func(h int) time.Duration {
		rng, t := rand.New(rand.NewPCG(3, 3)), 0.0
		for range h {
			t += rng.ExpFloat64() * float64(mean)
		}
		return time.Duration(t)
	}
}

// layers is 256 MiB in nine layers, those of test/bench/swarm.
func layers() []int64 {
	return []int64{120 * MiB, 60 * MiB, 32 * MiB, 20 * MiB, 12 * MiB, 6 * MiB, 4 * MiB, 3 * MiB / 2, MiB / 2}
}

// mixed is an image of 40 layers, their sizes spread evenly in the logarithm.
func mixed() []int64 {
	var blobs []int64
	rng := rand.New(rand.NewPCG(5, 5))
	for k := range 40 {
		lo, hi := math.Log(1<<10), math.Log(150*MiB)
		blobs = append(blobs, int64(math.Exp(lo+(hi-lo)*float64(k)/39)))
	}
	rng.Shuffle(len(blobs), func(i, j int) { blobs[i], blobs[j] = blobs[j], blobs[i] })
	return blobs
}

// killSome kills k of n hosts at random moments and restarts them.
func killSome(n, k int) []Fault {
	rng := rand.New(rand.NewPCG(9, 9))
	var f []Fault
	for _, h := range rng.Perm(n)[:k] {
		t := time.Second + time.Duration(rng.Int64N(int64(18*time.Second)))
		f = append(f, Fault{t, h, Kill}, Fault{t + 5*time.Second, h, Restart})
	}
	return f
}

// churn kills a share of n hosts per minute, at random, each to be restarted
// after 5 s.
func churn(n int, perMinute float64, during time.Duration) []Fault {
	rng := rand.New(rand.NewPCG(11, 11))
	var f []Fault
	for range int(math.Ceil(float64(n) * perMinute * during.Minutes())) {
		t, h := time.Duration(rng.Int64N(int64(during))), rng.IntN(n)
		f = append(f, Fault{t, h, Kill}, Fault{t + 5*time.Second, h, Restart})
	}
	return f
}
