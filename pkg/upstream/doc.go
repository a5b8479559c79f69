// Package upstream talks to the registries that images come from. It knows
// them by name, finds credentials, follows their token flows and redirects,
// obeys their rate limits, and brings back manifests, tag lists and blobs
// although connections are cut, stall or answer nonsense. A host that fails is
// left alone until it answers a probe, and what the operator's rules forbid is
// asked for by nobody (docs/upstreams.md).
//
// Not its job: to decide whether an upstream should be asked (pkg/fetch,
// pkg/seed), to hash blobs (whoever reads a BlobReader does), to keep anything
// (pkg/store), or to remember tags.
//
// Invariants:
//   - Every read has a deadline: connect, response header, and idle (no byte).
//   - A manifest that is returned matches its digest. A BlobReader yields each
//     byte of the range once and in order, but its content is not verified.
//   - Credentials go only to the host they are kept for (and the token server
//     that host names), never to the target of a redirect, and are never in an
//     error, a log line or a metric. Queries of redirects, which carry
//     signatures, are not either.
//   - Offline, nothing is dialled.
//   - While a breaker is open its host hears of probes only.
//   - Kind decides policy; nobody matches on error text.
//
// pkg/seed, pkg/mirror and pkg/fetch may call it. It imports nothing of this
// module. upstreamtest has an upstream for tests.
package upstream
