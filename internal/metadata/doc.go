// Package metadata answers what a client must know before it can ask for
// blobs: what a tag means, what a manifest says, how large a blob is. Both
// daemons answer from one Cache: from the store where that is enough, else from
// their sources, the best first.
//
// What the rules forbid is refused before anything is looked up. What a source
// does not have is remembered for a while.
//
// Tags are believed for a TTL, then checked with a source, and stand in for
// one that fails until they are too old. What is named by digest never changes
// and is never asked for twice. Callers of the same question share one answer,
// which is looked for on when they leave.
//
// A source that is silent costs the first client its patience and nobody else:
// the next source is asked meanwhile, and for a while the silent one is passed
// over where somebody else can answer.
//
// Not its job: what a failure means to a client (pkg/seed, pkg/mirror), to move
// blobs (pkg/fetch), to talk HTTP (pkg/registry, pkg/upstream).
//
// Callers: pkg/seed and pkg/mirror.
package metadata
