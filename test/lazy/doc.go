// Package lazy reads images through a mirror the way lazy snapshotters and
// chunked pulls do, and counts what that costs: of the upstream, of the seeder and
// of time. Its upstream makes its blobs up as they are read, so that they may be
// larger than the disk.
//
// It is used by its own tests and by test/bench/lazy.
package lazy
