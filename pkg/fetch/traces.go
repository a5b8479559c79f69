package fetch

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// traces are the spans of one swarm's download, below that of the first request
// for the blob that is sampled. On a seeder that may be a peer's ask, which comes
// when the download is under way already; what it takes from the upstream is
// entered when it has ended. Without a sampled request nothing is made.
type traces struct {
	mu   sync.Mutex
	span trace.Span // of the download, or what it was asked for by; nil: none is sampled
	mine bool       // span is ours to end
	past []stream   // the first streams from the upstream while nobody was sampled
}

// stream is what was taken from the upstream in one request.
type stream struct {
	began, ended time.Time
	first, end   int // pieces [first, end)
}

// maxPast bounds the streams that are remembered for who asks later.
const maxPast = 4

const tracerName = "github.com/samara-p2p/samara"

// begin begins the span of a download.
func (t *traces) begin(s *swarm, parent trace.Span) {
	if parent == nil || !parent.SpanContext().IsSampled() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mine {
		return
	}
	_, t.span = parent.TracerProvider().Tracer(tracerName).Start(trace.ContextWithSpan(context.Background(), parent), "swarm",
		trace.WithAttributes(attribute.String("samara.digest", s.digest.String()), attribute.Int64("samara.size", s.geom.Size())))
	t.mine = true
}

// end ends it.
func (t *traces) end(s *swarm, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.mine {
		return
	}
	_, by := s.prog.summary()
	t.span.SetAttributes(attribute.String("samara.result", resultOf(err)), attribute.Int64("samara.bytes.peers", by.Peers),
		attribute.Int64("samara.bytes.seeder", by.Seeder), attribute.Int64("samara.bytes.upstream", by.Upstream))
	if err != nil {
		t.span.SetStatus(codes.Error, resultOf(err))
	}
	t.span.End()
	t.span, t.mine = nil, false
}

// adopt notes who waits for what comes from the upstream.
func (t *traces) adopt(ctx context.Context) {
	span := trace.SpanFromContext(ctx)
	if !span.SpanContext().IsSampled() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.span != nil {
		return
	}
	t.span = span
	for _, s := range t.past {
		s.enter(span)
	}
	t.past = nil
}

func (t *traces) current() trace.Span {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.span
}

// pieces begins the span of a request to a peer; ctx carries it there.
func (t *traces) pieces(ctx context.Context, r *transfer) (context.Context, func(scheduler.Result)) {
	parent := t.current()
	if parent == nil {
		return ctx, func(scheduler.Result) {}
	}
	ctx, span := parent.TracerProvider().Tracer(tracerName).Start(trace.ContextWithSpan(ctx, parent), "pieces", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("samara.peer", r.peer.String()), attribute.Bool("samara.seeder", r.seeder), attribute.Int("samara.pieces", max(len(r.ask.Pieces), r.ask.Max))))
	return ctx, func(result scheduler.Result) {
		span.SetAttributes(attribute.String("samara.result", result.String()))
		span.End()
	}
}

// streamed enters a stream of the pieces [first, end) from the upstream that
// began then and ends now.
func (t *traces) streamed(began time.Time, first, end int) {
	s := stream{began, time.Now(), first, end}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.span != nil:
		s.enter(t.span)
	case len(t.past) < maxPast:
		t.past = append(t.past, s)
	}
}

func (s stream) enter(parent trace.Span) {
	_, span := parent.TracerProvider().Tracer(tracerName).Start(trace.ContextWithSpan(context.Background(), parent), "upstream pieces",
		trace.WithTimestamp(s.began), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.Int("samara.first", s.first), attribute.Int("samara.end", s.end)))
	span.End(trace.WithTimestamp(s.ended))
}
