// Package fetch drives downloads. An Engine holds one swarm per blob that this
// host wants or serves; it turns the actions of pkg/scheduler into calls of
// pkg/p2p, pkg/upstream and pkg/store, and feeds back what came of them.
//
// # How a blob comes in
//
// On a peer (peerd) a scheduler.Download chooses which piece to ask of whom;
// every piece is hashed against a run that a trusted seeder signed, before it
// is written, announced or served. Where no such hash exists the bytes are
// "raw": read by local clients only when they came from the upstream itself,
// served to nobody, and committed only when the whole digest is right.
//
// On a seeder the bytes come from the upstream (type origin): each piece once,
// whoever asks and however many. The seeder hashes pieces as they arrive,
// signs runs of hashes and passes both on while the rest is still to come.
//
// # Ownership
//
// Each swarm has one owner goroutine (swarm.run) that holds the membership, the
// scheduler and the bookkeeping of requests; everything else posts functions to
// it. A request runs on a goroutine of its own, owned by the swarm. The
// giving side (type giver) is one pure scheduler.Giver behind a mutex.
//
// # Who may call
//
// pkg/mirror and pkg/seed. The Engine is the p2p.Handler and p2p.PieceServer of
// the node it is started with.
package fetch
