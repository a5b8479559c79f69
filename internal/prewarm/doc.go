// Package prewarm has hosts fetch images before somebody pulls them.
//
// A Manager keeps orders: these images, to these hosts, by then. It resolves tags
// once, chooses hosts among the neighbours, sends each its part, and asks how far
// they are until all have the images or the deadline has passed. Orders are kept
// in one file, and told again to whoever comes late or has forgotten them: a
// restart of either side loses nothing. Schedules make orders by themselves.
//
// It moves no content: hosts fetch through the swarm, as for a pull
// (pkg/mirror). It asks nobody who he is: that is for who calls it (the seeder's
// admin API).
package prewarm
