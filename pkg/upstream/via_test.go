package upstream

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

func TestParseVia(t *testing.T) {
	for _, test := range []struct {
		lines []string
		want  []string
	}{
		{nil, nil},
		{[]string{"1.1 a"}, []string{"a"}},
		{[]string{"1.1 a, HTTP/2 b (proxy)", "1.0 c"}, []string{"a", "b", "c"}},
		{[]string{"", ",,", "1.1"}, nil},
		{[]string{"1.1 " + strings.Repeat("x", 200)}, nil},
	} {
		if got := ParseVia(http.Header{"Via": test.lines}); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q", test.lines, got)
		}
	}
	long := ParseVia(http.Header{"Via": {strings.Repeat("1.1 x, ", 10_000)}})
	if len(long) > 2*maxVia || !Loops(long, "self") {
		t.Errorf("%d names", len(long))
	}
	if Loops([]string{"a", "b"}, "c") || !Loops([]string{"a", "b"}, "b") {
		t.Error("Loops")
	}
}

// What another seeder is asked says who asks and for whom; other registries
// are not told. Its Age is believed, theirs is not.
func TestVia(t *testing.T) {
	virtually(t, func(o *Options) { o.ID = "me" }, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "v1", 10)
		var got []string
		b.serve("seeder.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = append(got, r.Header.Get("Via")+" ns="+r.URL.Query().Get("ns"))
			w.Header().Set("Age", "42")
			b.up.ServeHTTP(w, r)
		}))
		for _, test := range []struct {
			ns   string
			want string
			age  time.Duration
		}{{"x.test", "1.1 a, 1.1 b, 1.1 me ns=x.test", 42 * time.Second}, {"", " ns=", 0}} {
			if err := b.client.Update([]Registry{{Name: "up", URL: "http://seeder.test", NS: test.ns}}); err != nil {
				t.Fatal(err)
			}
			got = nil
			ctx := WithVia(t.Context(), []string{"a", "b"})
			d, err := b.client.Head(ctx, "up", "a/b", "v1")
			if err != nil || len(got) != 1 || got[0] != test.want || d.Age != test.age {
				t.Errorf("ns %q: %v, sent %q, age %v", test.ns, err, got, d.Age)
			}
		}
	})
}

// 508 is the end of it: no request is sent again, and no breaker opens.
func TestLoopDetected(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "v1", 10)
		b.up.SetFault("manifests", upstreamtest.Fault{Status: 508})
		for range 5 {
			_, err := b.ask(t, "up", "v1")
			wantKind(t, err, Invalid, "take one of them out")
		}
		if n := b.up.Count("", "manifests"); n != 5 || b.breaker("up") != "closed" {
			t.Errorf("%d requests, breaker %s", n, b.breaker("up"))
		}
	})
}
