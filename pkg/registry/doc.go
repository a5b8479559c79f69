// Package registry is an OCI registry as HTTP sees it: names and how they map
// to upstreams and local repositories (Resolver), the /v2/ handler that a
// seeder and a peerd's localhost mirror share (NewHandler), what a manifest
// points at (Parse, Select), and the tags that were seen (Tags).
//
// Both daemons put a Backend behind the handler; a seeder that takes pushes
// also a Writer. The handler owns everything a
// client can observe: paths, headers, ranges, error bodies, deadlines, and how
// a body ends that cannot be completed. The backend owns where bytes come
// from and how long it takes to decide.
//
// Not its job: to hold blobs (pkg/store), to fetch them (pkg/upstream,
// pkg/fetch) or to decide who may read them. It imports none of these.
//
// Invariants, with the rule of the client contract they come from
// (docs/mirror-contract.md):
//
//   - A status line is a promise: once 200 or 206 is sent the response either
//     carries every byte or ends with FIN short of Content-Length, never with
//     RST, padding or a clean short body (contract 9, 14).
//   - Content is never re-encoded, and redirected only where a backend says so,
//     which a mirror's never does (contract 3, 5).
//   - A Range that can be satisfied is never answered with 200 (contract 6).
//   - An upstream named by a client is a key into the configured set, never an
//     address (contract 21).
package registry
