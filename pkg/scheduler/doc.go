// Package scheduler decides who gives which piece next. It is pure: no
// goroutine, lock, clock or I/O. Time is an argument, randomness is seeded:
// the same events yield the same actions.
//
// A Download is the wanting side: one per blob that this host gets. A Giver is
// the giving side: one per host, over all blobs that it holds or gets. Both
// are driven by Step: one event in, what to do out. The caller (pkg/fetch, or
// the simulated world in pkg/scheduler/sim) owns time, network and disk.
//
// # The contract of a Download
//
//   - Every RequestPieces and Fallback ends by exactly one Done, or by a
//     Cancel, or by the peer's PeerDown. The scheduler sets every deadline: the
//     caller needs none of its own, but reports Progress of what moves.
//   - PieceOK and PieceBad of a request come before its Done. A PieceOK
//     without a live request (late after Cancel, found on disk) counts too.
//   - PieceOK says that the piece is verified and written: Announce follows
//     from it at once.
//   - After WakeAt{At} a Tick is due at At. Events before it do no harm.
//   - Events that name an unknown peer, request or piece are ignored.
//
// # The contract of a Giver
//
//   - Every Ask is answered by one Give, Busy or NotHeld, at once or later,
//     unless AskGone or PeerGone comes first. Every Give is ended by Sent, or
//     by AskGone.
//   - A seeder learns what the swarm holds from the asks: what a peer does not
//     ask for it has, or gets elsewhere. PeerHas tells it sooner, and tells of
//     peers that never ask; it need not be sent for every piece.
//
// Not its job: to know hashes (the caller asks only for pieces that it can
// verify, by holding back PeerUp until it can), to find peers, to connect.
//
// docs/scheduler.md tells the policy, and what it is worth in simulation.
package scheduler
