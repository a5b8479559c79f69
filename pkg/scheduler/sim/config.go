package sim

import (
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// Rates, in bytes per second.
const (
	Mbit = 1e6 / 8
	MiB  = 1 << 20
)

// Link is a host's wire.
type Link struct{ Up, Down float64 } // bytes/s

// Symmetric is a wire of the same rate both ways, in Mbit/s.
func Symmetric(mbit float64) Link { return Link{mbit * Mbit, mbit * Mbit} }

// Config describes one run. Zero values stand for the default named beside it.
type Config struct {
	Seed  uint64
	Hosts int     // that pull; the seeder is one more
	Blobs []int64 // sizes; 256 MiB

	Link       Link             // of a host: 100 Mbit/s
	Links      func(h int) Link // of host h (0, 1, ...) where they differ
	SeederLink Link             // as Link
	NoSeeder   bool             // Holders hold the blobs instead
	Holders    int              // hosts that hold everything at the start: the first ones. They do not pull.

	Upstream float64 // bytes/s that the upstream gives in all; 0 = there is none
	Cold     bool    // the seeder has nothing yet and fetches from the upstream

	Zones    int     // hosts are dealt to zones in turn, the seeder is in the first: 1
	ZoneLink float64 // bytes/s between zones each way, shared; 0 = no limit

	Arrive     func(h int) time.Duration // nil = all at 0
	Faults     []Fault
	Liars      int     // the last so many hosts send wrong bytes
	Neighbours int     // of a host: 60
	NearShare  float64 // of the neighbours named to who joins, those of its zone: 0.75
	Parallel   int     // blobs pulled at once: 3
	NoReader   bool
	NoHint     bool // neighbours are found a second late (DHT), not through the seeder

	Wire Wire // what connections cost: LabWire

	Latency  time.Duration // one way, within a zone: 250 us
	Far      time.Duration // and between zones: 1 ms
	HaveWait time.Duration // haves are batched so long: as pkg/p2p does
	Quantum  time.Duration // of the network: 1 ms, 5 ms above 100 hosts, 10 ms from 1,000 on
	Curve    time.Duration // step of Report.Curve; 0 = none
	Limit    time.Duration // the run ends by then: 20 times the lower bound and a minute

	Download scheduler.Config      // Geometry, Have and Seed are set by the run
	Giver    scheduler.GiverConfig // Seed is set by the run
}

// Fault is something that goes wrong. Host -1 is the seeder.
type Fault struct {
	At   time.Duration // 0 = as soon as the pullers hold everything among them
	Host int
	Kind FaultKind
}

// FaultKind is what a Fault does.
type FaultKind uint8

const (
	Kill    FaultKind = iota // the process dies: its connections are reset
	Restart                  // it comes back with the pieces it had
	Freeze                   // it stops for good, its connections stay (SIGSTOP)
)

func (c Config) withDefaults() Config {
	if len(c.Blobs) == 0 {
		c.Blobs = []int64{256 * MiB}
	}
	if c.Link == (Link{}) {
		c.Link = Symmetric(100)
	}
	if c.Links == nil {
		link := c.Link
		c.Links = func(int) Link { return link }
	}
	if c.SeederLink == (Link{}) {
		c.SeederLink = c.Link
	}
	c.Zones = max(c.Zones, 1)
	if c.Arrive == nil {
		c.Arrive = func(int) time.Duration { return 0 }
	}
	if c.Neighbours == 0 {
		c.Neighbours = 60
	}
	if c.NearShare == 0 {
		c.NearShare = 0.75
	}
	if c.Parallel == 0 {
		c.Parallel = 3
	}
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Wire == (Wire{}) {
		c.Wire = LabWire
	}
	def(&c.Latency, 250*time.Microsecond)
	def(&c.Far, time.Millisecond)
	if c.Hosts >= 1000 {
		def(&c.Quantum, 10*time.Millisecond)
	}
	if c.Hosts > 100 {
		def(&c.Quantum, 5*time.Millisecond)
	}
	def(&c.Quantum, time.Millisecond)
	return c
}
