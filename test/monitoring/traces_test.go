package monitoring

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/test/lab"
)

// receiver is a collector: it takes OTLP over HTTP, in protobuf.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []received
}

// received is a span and the daemon that sent it.
type received struct {
	*tracepb.Span
	service string
}

func newReceiver(t *testing.T) *receiver {
	c := &receiver{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		content, err := io.ReadAll(io.LimitReader(body, 16<<20))
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(content, &m)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", r.URL.Path, r.Header.Get("Content-Type"), err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, rs := range m.ResourceSpans {
			service := ""
			for _, a := range rs.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					c.spans = append(c.spans, received{s, service})
				}
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

// path is a span's names from the trace's root, "peerd GET manifest > peerd swarm".
func (c *receiver) path(id string, s received) string {
	name := s.service + " " + s.Name
	for _, p := range c.spans {
		if hex.EncodeToString(p.TraceId) == id && string(p.SpanId) == string(s.ParentSpanId) {
			return c.path(id, p) + " > " + name
		}
	}
	return name
}

// paths are those of the spans of a trace.
func (c *receiver) paths(id string) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]bool)
	for _, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == id {
			out[c.path(id, s)] = true
		}
	}
	return out
}

// A client that traces its pull finds in one trace what peerd, the swarm, the
// seeder and its upstream did. One that does not is not traced here, by the
// sampler that the environment names.
func TestOnePullIsOneTrace(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := newReceiver(t)
	l := lab.ForTest(t, lab.Options{Loopback: true})
	bin, err := lab.Build(ctx, t.TempDir())
	must(err)
	host := func(name string) *lab.Host {
		h, err := l.NewHost(name, 0)
		must(err)
		return h
	}
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_TRACES_SAMPLER=parentbased_always_off"}
	img, err := lab.NewImage(lab.ImageSpec{Layers: []int64{3 << 20}, Seed: 1})
	must(err)
	up, err := lab.StartBuiltin(host("upstream"), "docker.io", img, "library/app", "v1")
	must(err)
	s, err := lab.StartSeeder(ctx, bin, host("seeder"), lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: up.Name, URL: up.URL}}, Env: env})
	must(err)
	h := host("peer")
	p, err := lab.StartPeerd(ctx, bin, h, lab.PeerdConfig{Seeder: s.URL, SwarmKey: s.SwarmKey, Env: env})
	must(err)

	const id = "0af7651916cd43dd8448eb211c80319c"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Mirror+"/v2/library/app/manifests/v1?ns=docker.io", http.NoBody)
	must(err)
	req.Header.Set("Traceparent", "00-"+id+"-b7ad6b7169203331-01")
	resp, err := h.HTTPClient().Do(req)
	must(err)
	_, err = io.Copy(io.Discard, resp.Body)
	must(err)
	must(resp.Body.Close())
	_, err = (&lab.HTTPPuller{Client: h.HTTPClient(), Mirror: p.Mirror, NS: up.Name}).Pull(ctx, "library/app", "v1")
	must(err)

	must(lab.Eventually(ctx, func() error {
		got := c.paths(id)
		for _, want := range []string{
			"peerd GET manifest",
			"peerd GET manifest > peerd upstream manifest > seeder GET manifest > seeder upstream manifest",
			"peerd GET manifest > peerd swarm > peerd pieces > seeder give",
			"peerd GET manifest > peerd swarm > peerd pieces > seeder give > seeder upstream pieces",
		} {
			if !got[want] {
				return fmt.Errorf("the trace has no %q; it has %v", want, got)
			}
		}
		return nil
	}))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if got := hex.EncodeToString(s.TraceId); got != id {
			t.Errorf("%s %s is in the trace %s, which nobody asked for", s.service, s.Name, got)
		}
	}
}
