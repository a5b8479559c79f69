package tracing

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/samara-p2p/samara/pkg/registry"
)

// asked tells whether the environment asks for traces: an endpoint is named, or
// the exporter.
func asked() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch os.Getenv("OTEL_TRACES_EXPORTER") {
	case "otlp":
		return true
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	}
	return false // "none", or one that is not here
}

// Start begins to export, where the environment asks for it; else the tracer is
// nil. stop sends what is left, as long as its context allows.
func Start(ctx context.Context, daemon, version, id string) (tracer trace.Tracer, stop func(context.Context) error, err error) {
	if !asked() {
		return nil, func(context.Context) error { return nil }, nil
	}
	if p := os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%s: traces go out by http/protobuf alone; unset it, and name the collector's HTTP port (4318)", p)
	}
	exporter, err := otlptracehttp.New(ctx) // reads OTEL_EXPORTER_OTLP_*
	if err != nil {
		return nil, nil, fmt.Errorf("traces: %w; look at OTEL_EXPORTER_OTLP_ENDPOINT", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", daemon), attribute.String("service.version", version), attribute.String("service.instance.id", id)),
		resource.WithFromEnv()) // last: OTEL_SERVICE_NAME counts
	if err != nil {
		return nil, nil, fmt.Errorf("traces: %w; look at OTEL_RESOURCE_ATTRIBUTES", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about)) // reads OTEL_TRACES_SAMPLER, OTEL_BSP_*
	return provider.Tracer("github.com/samara-p2p/samara"), provider.Shutdown, nil
}

// Handler begins a span for each request to the registry API, below the
// client's where it sends traceparent. h adds what became of it. A nil tracer
// changes nothing.
func Handler(tracer trace.Tracer, h http.Handler) http.Handler {
	if tracer == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rt := registry.ParsePath(r.URL.Path)
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, r.Method+" "+string(rt.Endpoint), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("http.request.method", r.Method), attribute.String("user_agent.original", r.UserAgent()),
			attribute.String("samara.repository", rt.Repository), attribute.String("samara.reference", rt.Reference)))
		defer span.End()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}
