// Package clients is the acceptance matrix: every real container client against
// everything that a peer, the seeder or the upstream can do to it.
//
// A [World] is an upstream, a seeder and a peer, each behind a door that
// misbehaves as told, and two hosts with the same client: one whose mirror is a
// peerd, set up by `peerd setup apply` where the client has a configuration, and
// one that has no mirror. A [Condition] says which source has the image and what
// is wrong with whom. A [Cell] is one client's pull in one condition: it has to
// work where any source still has the bytes, and where none has, to be no worse
// than the client without a mirror in the same condition.
//
// Each pull begins with a peerd that holds nothing and has met seeder and peer
// in good health; the trouble begins just before the client does.
//
// Callers: test/acceptclients and the tests here.
package clients
