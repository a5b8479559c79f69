//go:build race

package sim

// The race detector has nothing to find here but slows the larger runs tenfold.
func init() { small = true }
