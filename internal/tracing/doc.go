// Package tracing sends OpenTelemetry traces where an operator asks for them, by
// the environment variables that every such program knows (OTEL_*). Without
// them there is none, and nothing is spent on it.
//
// Spans are made where the work is: this package makes the first one of a
// request (Handler), pkg/p2p that of a peer's request, and what they call makes
// children where the context carries a span that is recorded.
//
// internal/daemon calls it.
package tracing
