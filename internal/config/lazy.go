package config

import "slices"

// Lazy says what is fetched of blobs that clients read in parts (docs/lazy.md).
type Lazy struct {
	Lazy string `name:"lazy" group:"Operation" help:"what is fetched of a large blob that clients read only by ranges with an end, as lazily mounted images are: needed (the pieces that are read), background (the rest, too, while nobody waits) or whole (all of it at once)"`
}

// What is fetched of blobs that are read in parts.
const (
	LazyNeeded     = "needed"
	LazyBackground = "background"
	LazyWhole      = "whole"
)

var lazyWays = []string{LazyNeeded, LazyBackground, LazyWhole}

func (c *Lazy) lazy(r *report) {
	if !slices.Contains(lazyWays, c.Lazy) {
		r.add("lazy", "give needed, background or whole", "%q is none of its values", c.Lazy)
	}
}
