package upstream

import (
	"net/http"
	"testing"
	"time"
)

func TestParseBudget(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, test := range []struct {
		limit, remaining string
		want             budget
		ok               bool
	}{
		{"100;w=21600", "76;w=21600", budget{100, 76, 6 * time.Hour, now}, true},
		{"100", "76", budget{100, 76, 0, now}, true},
		{" 100 ; w=60 ", "0", budget{100, 0, time.Minute, now}, true},
		{"100;w=60", "300", budget{100, 100, time.Minute, now}, true},
		{"", "76", budget{}, false},
		{"100", "", budget{}, false},
		{"0", "0", budget{}, false},
		{"many", "76", budget{}, false},
		{"-1", "76", budget{}, false},
		{"100;w=99999999999999999999", "1", budget{100, 1, 0, now}, true},
	} {
		h := http.Header{}
		h.Set("RateLimit-Limit", test.limit)
		h.Set("RateLimit-Remaining", test.remaining)
		if got, ok := parseBudget(h, now); got != test.want || ok != test.ok {
			t.Errorf("%q, %q: %+v, %v", test.limit, test.remaining, got, ok)
		}
	}
}

// Requests that nobody needs stop at the reserve, and come back with the
// window; pulls go on to the end.
func TestRateReserve(t *testing.T) {
	virtually(t, func(o *Options) { o.RateReserve = 25 }, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "v1", 10)
		spare := Spare(t.Context())
		left := func(n string) {
			t.Helper()
			b.up.SetFault("manifests", fault{RateLimit: "100;w=21600", RateLeft: n})
			if _, err := b.client.Manifest(t.Context(), "up", "a/b", "v1", nil); err != nil {
				t.Fatalf("a pull with %s left: %v", n, err)
			}
		}
		left("26;w=21600")
		if _, err := b.client.Head(spare, "up", "a/b", "v1"); err != nil {
			t.Errorf("a check with 26 left: %v", err)
		}
		left("25;w=21600")
		before := len(b.up.Requests())
		_, err := b.client.Head(spare, "up", "a/b", "v1")
		wantKind(t, err, RateLimited, "25 of 100 requests are left of its rate limit, and 25 are kept for pulls")
		if e := new(Error); !as(err, e) || e.RetryAfter != 216*time.Second {
			t.Errorf("retry after %v", e.RetryAfter)
		}
		if n := len(b.up.Requests()) - before; n != 0 {
			t.Errorf("%d requests", n)
		}
		if s := b.client.Stats(); s[2].RateLimit != 100 || s[2].RateLeft != 25 {
			t.Errorf("%+v", s[2])
		}
		left("0;w=21600")
		b.later(26*216*time.Second - time.Second) // a request comes back each 216 s
		_, err = b.client.Head(spare, "up", "a/b", "v1")
		wantKind(t, err, RateLimited)
		b.later(2 * time.Second)
		if _, err := b.client.Head(spare, "up", "a/b", "v1"); err != nil {
			t.Errorf("once 26 have come back: %v", err)
		}
	})
}

// Told to keep away, requests that nobody needs do not even wait.
func TestSpareDoesNotWait(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "v1", 10)
		b.up.SetFault("manifests", fault{Status: 429, RetryAfter: "3", Times: 1})
		began := time.Now()
		_, err := b.client.Head(Spare(t.Context()), "up", "a/b", "v1")
		wantKind(t, err, RateLimited)
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		if _, err = b.client.Head(t.Context(), "up", "a/b", "v1"); err != nil || time.Since(began) < 3*time.Second {
			t.Errorf("a pull waits: %v after %v", err, time.Since(began))
		}
	})
}
