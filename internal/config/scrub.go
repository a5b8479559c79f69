package config

import "time"

// Scrub is what both daemons are told about checking what lies on the disk
// (docs/store.md).
type Scrub struct {
	ScrubEvery time.Duration `name:"scrub-every" group:"Storage" help:"how often all content is read back and hashed; 0 never does by itself"`
	ScrubRate  ByteSize      `name:"scrub-rate" group:"Storage" help:"bytes a second that are read for it at most"`
}

func defaultScrub() Scrub {
	return Scrub{ScrubEvery: 7 * 24 * time.Hour, ScrubRate: 16 << 20}
}

func (c *Scrub) scrub(r *report) {
	if c.ScrubEvery < 0 {
		r.add("scrub-every", "give 0 or more", "%v is negative", c.ScrubEvery)
	}
	if c.ScrubRate < 1<<20 {
		r.add("scrub-rate", "give 1MiB or more; --scrub-every 0 turns it off", "at %v a second no round would end", c.ScrubRate)
	}
}
