package upstream

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// traced begins a span for a request below the one of ctx, if that is sampled.
// It ends with the answer's headers; last is the failure, if there is one.
func (u *upstream) traced(ctx context.Context, rq *request) (context.Context, func(last *failure)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.SpanContext().IsSampled() {
		return ctx, func(*failure) {}
	}
	ctx, span := parent.TracerProvider().Tracer("github.com/samara-p2p/samara").Start(ctx, "upstream "+rq.op, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("server.address", u.host), attribute.String("samara.upstream", u.name), attribute.Bool("samara.relay", u.relay()),
			attribute.String("samara.repository", rq.repo), attribute.String("samara.reference", rq.what)))
	return ctx, func(last *failure) {
		if last != nil {
			span.SetStatus(codes.Error, last.kind.String())
		}
		span.End()
	}
}
