// Package visibility knows who may be given what is cached: anybody, because
// the repository is public at its upstream, or a client whose token the
// upstream takes for it (contract 24 to 27).
//
// Public keeps verdicts about repositories, and which digests are theirs:
// content is kept by digest, and a digest that is known is no permission.
// Tokens keeps verdicts about tokens, as keyed hashes. Both ask once for all who
// wait, and remember for a bounded time.
//
// Invariants:
//   - No token is kept, logged, in an error, or given to anybody but Options.Show.
//   - Where nobody can tell, the answer is an error. A repository that was public
//     lately stays so while nobody can be asked, up to Options.Stale.
//
// Not its job: to talk to registries (pkg/upstream), or to decide what a refusal
// looks like to a client (pkg/mirror, pkg/seed).
//
// Callers: pkg/mirror and pkg/seed.
package visibility
