// Package front is what a request to a seeder passes before anybody asks who
// sent it: TLS with certificates that are read again or come by ACME (TLS), the
// word of trusted proxies (Proxies), headers that keep browsers from doing
// harm (Headers), and limits (Limits).
//
// Not its job: to know users (pkg/auth) or the registry API (pkg/registry).
//
// Invariants:
//
//   - What a client says of itself in X-Forwarded-* or Forwarded counts for
//     nothing, unless it comes through a trusted proxy.
//   - A certificate that cannot be used does not replace one that can.
//   - All state is bounded, whatever clients do.
//
// pkg/seed wires it.
package front
