// Package seed is the seeder's role: a registry API whose content is pulled
// through from upstreams, each byte once, and the root of the swarm.
//
// Tags are revalidated with their upstream after a TTL and served stale when
// the upstream fails; what is named by digest never changes and is never
// asked for again. Everything that was pulled is served with every upstream
// down, also after a restart.
//
// Its job is small: to wire a seeder together, to introduce it to peers, and to
// choose what a failure means to a client.
//
// Not its job: to find manifests (internal/metadata), to move blobs (pkg/fetch),
// to speak HTTP (pkg/registry) or to talk to upstreams (pkg/upstream). Only
// cmd/seeder may call it.
package seed
