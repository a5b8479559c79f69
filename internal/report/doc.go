// Package report is what a seeder knows of its peers, for people: a peerd tells
// its seeders what it fetches, from where, and what it holds (Reporter), and a
// seeder remembers what was told (Board), by pull, by zone and by blob.
//
// Invariants: what is told costs at most a hundredth of the bytes that a peer
// receives, beside a report in a quarter of a minute; the memory that a Board
// takes is bounded, whatever peers say; a report is the word of a peer, and
// nothing but what people are shown depends on it.
//
// Not its job: the wire (pkg/p2p), the page (internal/console). pkg/mirror runs a
// Reporter, pkg/seed a Board.
package report
