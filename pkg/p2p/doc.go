// Package p2p is the network of the swarm: it knows who is there and moves
// messages and pieces between peers.
//
// Its job: the libp2p host with a persistent identity, the private network
// key, finding peers (bootstrap list, DNS, mDNS, a Kademlia DHT), provider
// records for blobs, one control stream per neighbour (/samara/swarm/1.0.0) and
// the data plane that carries pieces (HTTP/1.1 over TLS 1.3 with the libp2p
// identity). docs/protocol/swarm.md describes every byte of it.
//
// Not its job: which piece to ask whom for (pkg/scheduler), what a piece must
// hash to (pkg/piece), where it is kept (pkg/store). Message contents are
// checked for bounds here and for truth by the caller.
//
// Invariants:
//   - Every network read has a deadline and a size limit.
//   - A neighbour's callbacks come from one goroutine, in order: PeerUp once,
//     then messages, then PeerDown once.
//   - Nobody who is not admitted gets a message, a provider record or a piece.
//   - Close ends every goroutine that the package started.
//
// Callers: pkg/fetch, pkg/mirror, pkg/seed and the daemons.
package p2p
