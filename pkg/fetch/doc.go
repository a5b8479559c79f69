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
// signs runs of hashes and passes both on while the rest is still to come. It
// gives nothing that it has not signed, since nobody could check it.
//
// Small blobs and manifests have no swarm: they are fetched whole (Small,
// FromPeers, Keep).
//
// # Ownership
//
// Each swarm has one owner goroutine (swarm.run) that holds the membership, the
// scheduler and the bookkeeping of requests; everything else posts functions to
// it. What slow things there are (a request, a stream from the upstream, hashing
// what is on disk, a commit) run on goroutines of their own, which the swarm
// waits for before it ends. The giving side (type giver) is one pure
// scheduler.Giver behind a mutex, the last to be taken.
//
// # What holds always
//
//   - What is posted runs, or is told that it is lost; after the swarm's end
//     nothing is taken. The owner never posts to itself.
//   - A swarm ends when its download has failed or nobody has used it for a
//     while. Another may begin while it ends: both have handles of their own
//     with the giver, and work on the same blob in the store.
//   - Before the bytes of a blob are thrown away every request for them has ended.
//   - A reader that was let in gets every byte, or an error as soon as nobody
//     fetches what it waits for.
//   - What a neighbour can make this host keep is bounded by how many
//     neighbours there are, not by how much they say.
//
// # Who may call
//
// pkg/mirror and pkg/seed. The Engine is the p2p.Handler and p2p.PieceServer of
// the node it is started with.
package fetch
