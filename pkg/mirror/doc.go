// Package mirror is peerd's role: the v2 registry mirror on localhost that
// container runtimes point at, and the peer behind it.
//
// A tag is what the seeder says it is now, else what its upstream says, else,
// for a day, what it was. As soon as a manifest is known, the swarms of its
// blobs are joined, before the client asks for them. A blob is streamed while
// it arrives; peers, seeder and upstream stand in for one another without the
// client's noticing. What nobody can give is 404, at once, so that the client
// moves on to its next host (docs/mirror-contract.md, contract 9 to 14; the
// deadlines are config.Deadlines).
//
// What is not public at its upstream goes only to clients whose token the
// upstream takes, whatever is held here (contract 24 to 27).
//
// Its files: run.go wires a peerd together, backend.go answers the registry
// handler, answers.go says what else that handler has to know, stays.go sees to the
// clients that never leave, private.go and public.go decide who may have something,
// seeders.go, meet.go and memory.go keep what is known of the seeders.
//
// Not its job: to find manifests (internal/metadata), to move blobs (pkg/fetch),
// to speak HTTP (pkg/registry) or to talk to upstreams (pkg/upstream). Only
// cmd/peerd may call it.
package mirror
