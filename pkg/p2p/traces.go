package p2p

import (
	"net/http"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traced begins a span for a peer's request, if the peer traces its own: a
// traceparent header in an ask costs 70 bytes, and is there for sampled pulls
// alone.
func (d *dataPlane) traced(r *http.Request, from peer.ID) (*http.Request, func()) {
	if d.n.cfg.Tracer == nil || r.Header.Get("Traceparent") == "" {
		return r, func() {}
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := d.n.cfg.Tracer.Start(ctx, "give", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("samara.peer", from.String())))
	return r.WithContext(ctx), func() { span.End() }
}
