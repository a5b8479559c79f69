package scheduler

import (
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// Config sets up a Download. Only Geometry must be given; every zero value
// stands for the default named beside it.
type Config struct {
	Geometry piece.Geometry
	Have     *piece.Bitfield // pieces held already; nil = none. Not kept.
	Seed     uint64          // of all random choices
	// Key is this host's own PeerUp.Key. Where it and the peers' keys are
	// known, hosts that must share a scarce source (the upstream without a
	// seeder, the link between zones) split the pieces among them by
	// rendezvous hashing instead of at random.
	Key uint64

	// Lazy gets only pieces that a Need names.
	Lazy bool

	// Paced gets no more than what Allow events pay for, until Unpaced.
	Paced bool

	MaxRequests int           // requests under way in all: 32, or 48 MiB of pieces (24 of 2 MiB, 12 of 4): each holds one in memory
	MaxPerPeer  int           // and per peer: 2, or 1 where there are more sources than MaxRequests
	Batch       time.Duration // one request asks for about this long at the peer's rate: 100 ms
	MaxBatch    int           // and for no more pieces than: 16

	Window      int           // pieces ahead of a reader that count as wanted soon: 16
	UrgentAfter time.Duration // a reader waits this long before the seeder is asked for its very piece: 150 ms

	StallAfter time.Duration // a request that does not move this long is given to another as well: 2 s
	IdleAfter  time.Duration // and cancelled after: 5 s
	HedgeShare float64       // hedges in the tail, as a share of the blob's pieces: 0.01 (at least 2)

	NoFallback    bool          // no upstream is known
	Discovery     time.Duration // sources are looked for this long before the first fallback: 1 s
	Patience      time.Duration // a reader, or all of us, gets nothing this long although peers answer: then the upstream: 6 s (up to 8 s where pieces take long)
	FallbackBytes int64         // one fallback's range: 8 MiB
	MaxFallbacks  int           // at once: 2
	Share         time.Duration // what is another host's to get (see Key) is waited for this long: 1 s
	GiveUp        time.Duration // Stuck after: 10 s
}

// requestBytes bounds the pieces that are under way, in bytes.
const requestBytes = 48 << 20

func (c Config) withDefaults() Config {
	c.MaxRequests = or(c.MaxRequests, min(32, int(requestBytes/max(1, c.Geometry.PieceSize()))))
	c.MaxPerPeer = or(c.MaxPerPeer, 2)
	c.Batch = or(c.Batch, 100*time.Millisecond)
	c.MaxBatch = or(c.MaxBatch, 16)
	c.Window = or(c.Window, 16)
	c.UrgentAfter = or(c.UrgentAfter, 150*time.Millisecond)
	c.StallAfter = or(c.StallAfter, 2*time.Second)
	c.IdleAfter = or(c.IdleAfter, 5*time.Second)
	if c.HedgeShare <= 0 {
		c.HedgeShare = 0.01
	}
	c.Discovery = or(c.Discovery, time.Second)
	c.Patience = or(c.Patience, 6*time.Second)
	c.FallbackBytes = or(c.FallbackBytes, 8<<20)
	c.MaxFallbacks = or(c.MaxFallbacks, 2)
	c.Share = or(c.Share, time.Second)
	c.GiveUp = or(c.GiveUp, 10*time.Second)
	return c
}

// or returns v, or def where v is not positive.
func or[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
