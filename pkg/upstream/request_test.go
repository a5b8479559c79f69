package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

func TestManifestFaults(t *testing.T) {
	tests := []struct {
		name     string
		upstream string // "up" when empty
		fault    fault
		kind     Kind
		status   int
		took     time.Duration
		requests int
		says     string
	}{
		{name: "healthy", requests: 1},
		{name: "404", fault: fault{Status: 404}, kind: NotFound, status: 404, requests: 1},
		{name: "410", fault: fault{Status: 410}, kind: NotFound, status: 410, requests: 1},
		{name: "403", fault: fault{Status: 403}, kind: Denied, status: 403, requests: 1, says: "docker login"},
		{name: "451", fault: fault{Status: 451}, kind: Denied, status: 451, requests: 1},
		{name: "400", fault: fault{Status: 400}, kind: Invalid, status: 400, requests: 1},
		{name: "401 without a challenge", fault: fault{Status: 401}, kind: Denied, status: 401, requests: 1},
		{name: "500 then ok", fault: fault{Status: 500, Times: 1}, took: 200 * time.Millisecond, requests: 2},
		{name: "502 twice then ok", fault: fault{Status: 502, Times: 2}, took: time.Second, requests: 3},
		{name: "500 for ever", fault: fault{Status: 500}, kind: Unavailable, status: 500, took: time.Second, requests: 3},
		{name: "501", fault: fault{Status: 501}, kind: Unavailable, status: 501, requests: 1},
		{name: "503 with Retry-After", fault: fault{Status: 503, RetryAfter: "3", Times: 1}, took: 3 * time.Second, requests: 2},
		{name: "503 with a long Retry-After", fault: fault{Status: 503, RetryAfter: "30"}, kind: Unavailable, status: 503, requests: 1, says: "not before 30s"},
		{name: "429 with Retry-After", fault: fault{Status: 429, RetryAfter: "2", Times: 1}, took: 2 * time.Second, requests: 2},
		{name: "429 with a date", fault: fault{Status: 429, RetryAfter: "Sat, 01 Jan 2000 00:00:04 GMT", Times: 1}, took: 4 * time.Second, requests: 2},
		{name: "429 with a long Retry-After", fault: fault{Status: 429, RetryAfter: "86400"}, kind: RateLimited, status: 429, requests: 1, says: "not before 5m0s"},
		{name: "429 without Retry-After", fault: fault{Status: 429, Times: 2}, took: 3 * time.Second, requests: 3},
		{name: "429 for ever", fault: fault{Status: 429}, kind: RateLimited, status: 429, took: 3 * time.Second, requests: 3},
		{name: "slow header", fault: fault{HeaderDelay: 9 * time.Second}, took: 9 * time.Second, requests: 1},
		{name: "no header", fault: fault{Hang: true}, kind: Unavailable, took: 10 * time.Second, requests: 1, says: "timeout"},
		{name: "stall in the body", fault: fault{Stall: 0.5}, kind: Unavailable, took: 15 * time.Second, requests: 1, says: "idle deadline"},
		{name: "dropped once", fault: fault{Drop: true, Times: 1}, took: 200 * time.Millisecond, requests: 2},
		{name: "dropped", fault: fault{Drop: true}, kind: Unavailable, took: time.Second, requests: 3},
		{name: "cut once in the body", fault: fault{Cut: 0.5, Times: 1}, requests: 2},
		{name: "cut in the body", fault: fault{Cut: 0.5}, kind: Unavailable, requests: 3},
		{name: "refused connection", upstream: "nobody", kind: Unavailable, took: time.Second, says: "connection refused"},
		{name: "no connection", upstream: "hole", kind: Unavailable, took: 5 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				b.up.AddImage("a/b", "1", 1000)
				b.up.SetFault("manifests", test.fault)
				if test.upstream == "" {
					test.upstream = "up"
				}
				begin := time.Now()
				_, err := b.client.Manifest(t.Context(), test.upstream, "a/b", "1", nil)
				took := time.Since(begin)
				wantKind(t, err, test.kind, test.says)
				var e *Error
				if errors.As(err, &e) && e.Status != test.status {
					t.Errorf("status %d, want %d", e.Status, test.status)
				}
				if took != test.took {
					t.Errorf("took %s, want %s", took, test.took)
				}
				b.client.transport.CloseIdleConnections()
				b.up.Close() // ends what hangs, so that it is counted
				if n := b.up.Count("", "/manifests/"); test.requests > 0 && n != test.requests {
					t.Errorf("%d requests, want %d", n, test.requests)
				}
			})
		})
	}
}

// A long block fails at once and asks nothing; it ends by itself.
func TestBlockedUntil(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		img := b.up.AddImage("a/b", "1", 1000)
		b.up.SetFault("manifests", fault{Status: 429, RetryAfter: "60", Times: 1})
		_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		wantKind(t, err, RateLimited)
		s := b.client.Stats()[2]
		if left := time.Until(s.BlockedUntil); left != time.Minute {
			t.Errorf("blocked for %s", left)
		}
		asked := len(b.up.Requests())
		begin := time.Now()
		_, err = b.client.Blob(t.Context(), "up", "a/b", img.Layers[0], 0, -1)
		wantKind(t, err, RateLimited, "not before 1m0s")
		var e *Error
		if !errors.As(err, &e) || e.RetryAfter != time.Minute || e.Status != 0 {
			t.Errorf("%+v", e)
		}
		if time.Since(begin) != 0 || len(b.up.Requests()) != asked {
			t.Error("a blocked upstream was asked or waited for")
		}

		<-time.After(57 * time.Second) // 3 s are left: worth waiting, but not for a hurried caller
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = b.client.Manifest(ctx, "up", "a/b", "1", nil)
		wantKind(t, err, RateLimited)
		begin = time.Now()
		if _, err = b.client.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
			t.Error(err)
		}
		if time.Since(begin) != 3*time.Second {
			t.Errorf("waited %s", time.Since(begin))
		}
		if s := b.client.Stats()[2]; !s.BlockedUntil.IsZero() || s.Waits != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestCanceledInBackoff(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.SetFault("manifests", fault{Status: 500})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := b.client.Manifest(ctx, "up", "a/b", "1", nil)
		wantKind(t, err, Canceled)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cause is lost: %v", err)
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	virtually(t, func(o *Options) { o.MaxConcurrent = 3 }, func(t *testing.T, b *bench) {
		var mu sync.Mutex
		now, most := 0, 0
		b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-time.After(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			http.Error(w, "", http.StatusNotFound)
		}))
		var wg sync.WaitGroup
		begin := time.Now()
		for i := range 9 {
			wg.Go(func() {
				_, err := b.client.Manifest(t.Context(), "up", "a/b", fmt.Sprint(i), nil)
				if KindOf(err) != NotFound {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most != 3 || time.Since(begin) != 3*time.Second {
			t.Errorf("%d at a time, %s", most, time.Since(begin))
		}
	})
}

func TestErrorBodies(t *testing.T) {
	tests := []struct{ name, body, says string }{
		{"oci", `{"errors":[{"code":"NAME_UNKNOWN","message":"no\u0007 such\nthing"}]}`, "NAME_UNKNOWN: no  such"},
		{"html", "<html>proxy</html>", "it gave no reason"},
		{"empty", "", "it gave no reason"},
		{"url", `{"errors":[{"code":"X","message":"see https://u:p@h/x?token=abc for more"}]}`, "see https://h/x?... for more"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.WriteHeader(http.StatusNotFound)
					_, _ = w.Write([]byte(test.body))
				}))
				_, err := b.client.Tags(t.Context(), "up", "a/b", 0, "")
				wantKind(t, err, NotFound, test.says)
			})
		})
	}
}

// An error body that never comes costs little.
func TestErrorBodyStalls(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusForbidden)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		begin := time.Now()
		_, err := b.client.Tags(t.Context(), "up", "a/b", 0, "")
		wantKind(t, err, Denied)
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestRequestHeaders(t *testing.T) {
	virtually(t, func(o *Options) { o.UserAgent = "seeder/1" }, func(t *testing.T, b *bench) {
		var got http.Header
		b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.Header.Clone()
			http.NotFound(w, r)
		}))
		_, _ = b.client.Manifest(t.Context(), "up", "a/b", "1", []string{"a/b", "c/d"})
		if fmt.Sprint(got["Accept"]) != "[a/b, c/d]" || got.Get("User-Agent") != "seeder/1" || got.Get("Accept-Encoding") != "identity" {
			t.Errorf("%v", got)
		}
		_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", []string{"a\r\nb"})
		wantKind(t, err, Invalid)
	})
}

// Through a seeder an upstream is one namespace of many at the same address.
func TestNS(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		if err := b.client.Update([]Registry{{Name: "docker.io", URL: "http://up.test", NS: "docker.io"}}); err != nil {
			t.Fatal(err)
		}
		b.up.AddImage("a/b", "1", 1000)
		if _, err := b.client.Manifest(t.Context(), "docker.io", "a/b", "1", nil); err != nil {
			t.Error(err)
		}
		if _, err := b.client.Tags(t.Context(), "docker.io", "a/b", 5, "x"); err != nil {
			t.Error(err)
		}
		r := b.up.Requests()
		if r[0].Query != "ns=docker.io" || r[1].Query != "last=x&n=5&ns=docker.io" {
			t.Errorf("%+v", r)
		}
	})
}
