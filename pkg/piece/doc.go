// Package piece says what a piece of a blob is: where it lies (Geometry), which
// of them a peer holds (Bitfield), what it must hash to (Hash, Run, List) and
// who vouches for that (a run of hashes signed with a seeder's libp2p key).
//
// It is pure: no I/O, no goroutine, no clock. Decoders accept bytes from
// anybody and are fuzzed. docs/protocol/piece.md describes every format
// exactly enough for a second implementation; testdata holds its vectors.
//
// Not its job: to hold pieces (pkg/store), to choose them (pkg/scheduler) or
// to move them (pkg/p2p).
package piece
