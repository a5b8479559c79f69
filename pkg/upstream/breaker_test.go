package upstream

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ask asks for a manifest and tells how long that took.
func (b *bench) ask(t *testing.T, name, ref string) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	_, err := b.client.Manifest(t.Context(), name, "a/b", ref, nil)
	return time.Since(began), err
}

func (b *bench) breaker(name string) string {
	for _, s := range b.client.Stats() {
		if s.Name == name {
			return s.Breaker
		}
	}
	return "no such upstream"
}

// A host that takes requests and never answers costs one request its patience,
// and then nobody anything, until a probe is answered.
func TestBreakerOpensOnSilence(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "v1", 10)
		b.up.SetFault("manifests", fault{Hang: true})
		b.up.SetFault("v2", fault{Hang: true})
		took, err := b.ask(t, "up", "v1")
		wantKind(t, err, Unavailable)
		if took != 10*time.Second || b.breaker("up") != "open" {
			t.Errorf("the first took %v, then the breaker is %s", took, b.breaker("up"))
		}
		for range 20 {
			took, err = b.ask(t, "up", "v1")
			wantKind(t, err, Unavailable, "up.test is not asked: it has failed since")
			if e := new(Error); !as(err, e) || e.RetryAfter <= 0 || took != 0 {
				t.Fatalf("while it is open: took %v, %v", took, err)
			}
		}
		if n := b.up.Count("", "manifests"); n != 1 {
			t.Errorf("%d requests reached the host, want 1", n)
		}
		b.later(2 * time.Second) // the first probe hangs, too
		if b.breaker("up") != "probing" {
			t.Errorf("after 2 s the breaker is %s", b.breaker("up"))
		}
		b.up.ClearFaults()
		b.later(10 * time.Second)
		if took, err = b.ask(t, "up", "v1"); err != nil || took != 0 || b.breaker("up") != "closed" {
			t.Errorf("healed: took %v, %v, breaker %s", took, err, b.breaker("up"))
		}
	})
}

// Probes come after 1, 2, 4 ... seconds, at most half a minute apart, and only they.
func TestBreakerBacksOff(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		_, err := b.ask(t, "nobody", "v1")
		wantKind(t, err, Unavailable, "connection refused")
		began, dials := time.Now(), b.dials["nobody.test:80"]
		if dials != breakAfter || b.breaker("nobody") != "open" {
			t.Fatalf("%d dials, breaker %s", dials, b.breaker("nobody"))
		}
		var at []int
		for time.Since(began) < 250*time.Second {
			b.later(time.Second)
			synctest.Wait()
			_, _ = b.ask(t, "nobody", "v1")
			b.mu.Lock()
			if n := b.dials["nobody.test:80"]; n != dials {
				dials = n
				at = append(at, int(time.Since(began)/time.Second))
			}
			b.mu.Unlock()
		}
		want := []int{1, 3, 7, 15, 31, 61, 91, 121, 151, 181, 211, 241}
		if !slices.Equal(at, want) {
			t.Errorf("probes at %v, want %v", at, want)
		}
	})
}

// What counts as a failure of the host, and what does not.
func TestBreakerCounts(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault fault
		refs  []string // asked for in turn
		state string
	}{
		{"a gateway without a registry", fault{Status: 502}, []string{"t1", "t1"}, "open"},
		{"unavailable", fault{Status: 503}, []string{"t1", "t1"}, "open"},
		{"drops connections", fault{Drop: true}, []string{"t1", "t1"}, "open"},
		{"one thing is broken", fault{Status: 500}, []string{"t1", "t1", "t1", "t1"}, "closed"},
		{"everything is broken", fault{Status: 500}, []string{"t1", "t2", "t3"}, "open"},
		{"not found", fault{Status: 404}, []string{"t1", "t2", "t3", "t4"}, "closed"},
		{"denied", fault{Status: 403}, []string{"t1", "t2", "t3", "t4"}, "closed"},
		{"not implemented", fault{Status: 501}, []string{"t1", "t2", "t3", "t4"}, "closed"},
		{"too many requests", fault{Status: 429, RetryAfter: "0"}, []string{"t1", "t2", "t3", "t4"}, "closed"},
		{"answers between failures", fault{Status: 502, Times: 2}, []string{"t1", "t1", "t1"}, "closed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				for _, tag := range []string{"t1", "t2", "t3", "t4"} {
					b.up.AddImage("a/b", tag, 10)
				}
				b.up.SetFault("manifests", test.fault)
				b.up.SetFault("v2", fault{Status: 502})
				for _, ref := range test.refs {
					_, _ = b.ask(t, "up", ref)
				}
				if got := b.breaker("up"); got != test.state {
					t.Errorf("breaker %s, want %s", got, test.state)
				}
			})
		})
	}
}

// One request that waits in vain says nothing about a host that answers others
// meanwhile.
func TestBreakerSlowIsNotDown(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "v1", 10)
		b.up.AddImage("a/b", "slow", 10)
		b.up.SetFault("slow", fault{Hang: true})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := b.ask(t, "up", "slow")
			wantKind(t, err, Unavailable)
		})
		b.later(5 * time.Second)
		if _, err := b.ask(t, "up", "v1"); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if got := b.breaker("up"); got != "closed" {
			t.Errorf("breaker %s", got)
		}
	})
}

// A client that gives up early proves nothing, one that has waited 5 s does.
func TestBreakerAndImpatientClients(t *testing.T) {
	for _, test := range []struct {
		patience time.Duration
		state    string
	}{{2 * time.Second, "closed"}, {6 * time.Second, "open"}} {
		virtually(t, nil, func(t *testing.T, b *bench) {
			b.up.SetFault("*", fault{Hang: true})
			ctx, cancel := context.WithTimeout(t.Context(), test.patience)
			defer cancel()
			_, err := b.client.Manifest(ctx, "up", "a/b", "v1", nil)
			wantKind(t, err, Canceled)
			if got := b.breaker("up"); got != test.state {
				t.Errorf("after %v: breaker %s, want %s", test.patience, got, test.state)
			}
		})
	}
}

// Closed by a probe it is on probation: one failure opens it, for longer, until
// a request has gone well.
func TestBreakerProbation(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "v1", 10)
		b.up.SetFault("manifests", fault{Status: 502})
		until := func() time.Duration {
			t.Helper()
			began := time.Now()
			for b.breaker("up") != "closed" {
				if time.Since(began) > time.Minute {
					t.Fatal("it stays open")
				}
				b.later(100 * time.Millisecond)
			}
			return time.Since(began).Round(time.Second)
		}
		var open []time.Duration
		for range 3 {
			_, err := b.ask(t, "up", "v1")
			wantKind(t, err, Unavailable)
			open = append(open, until())
		}
		if open[0] != time.Second || open[1] != 2*time.Second || open[2] != 4*time.Second {
			t.Errorf("it was open for %v", open)
		}
		if n := b.up.Count("", "manifests"); n != 5 { // 3 tries, then 1 each
			t.Errorf("%d requests", n)
		}
		b.up.ClearFaults()
		if _, err := b.ask(t, "up", "v1"); err != nil {
			t.Fatal(err)
		}
		b.up.SetFault("manifests", fault{Status: 502, Times: 2})
		if _, err := b.ask(t, "up", "v1"); err != nil {
			t.Errorf("after a request that went well two failures do no harm: %v", err)
		}
	})
}

// Upstreams at one host share its breaker; one that is taken away is not
// probed any more.
func TestBreakerOfAHost(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		two := []Registry{{Name: "a", URL: "http://nobody.test"}, {Name: "b", URL: "http://nobody.test/"}, {Name: "c", URL: "http://nobody.test", NS: "c"}}
		if err := b.client.Update(two); err != nil {
			t.Fatal(err)
		}
		_, _ = b.ask(t, "a", "v1")
		if b.breaker("a") != "open" || b.breaker("b") != "open" || b.breaker("c") != "closed" {
			t.Errorf("a %s, b %s, c %s", b.breaker("a"), b.breaker("b"), b.breaker("c"))
		}
		if err := b.client.Update(two[2:]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.mu.Lock()
		before := b.dials["nobody.test:80"]
		b.mu.Unlock()
		b.later(time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := b.dials["nobody.test:80"]; n != before {
			t.Errorf("%d probes of a host that nobody names", n-before)
		}
	})
}

// Who keeps count of failures itself is not stopped.
func TestNoBreaker(t *testing.T) {
	virtually(t, func(o *Options) { o.NoBreaker = true }, func(t *testing.T, b *bench) {
		for range 3 {
			_, err := b.ask(t, "nobody", "v1")
			wantKind(t, err, Unavailable, "connection refused")
		}
		if n := b.dials["nobody.test:80"]; n != 9 || b.breaker("nobody") != "closed" {
			t.Errorf("%d dials, breaker %s", n, b.breaker("nobody"))
		}
	})
}

// A blob under way outlives a host that is away for a while.
func TestBlobWaitsForTheBreaker(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, content := b.up.AddRandomBlob(1_000_000)
		b.up.SetFault("blobs", fault{Cut: 0.5, Times: 1})
		b.up.SetFault("v2", fault{Status: 502})
		r, err := b.client.Blob(t.Context(), "up", "a/b", d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b.up.SetFault("blobs", fault{Status: 502})
		heal := time.AfterFunc(12*time.Second, b.up.ClearFaults)
		defer heal.Stop()
		got := make([]byte, len(content))
		if err := readFull(r, got); err != nil || string(got) != string(content) {
			t.Errorf("%v", err)
		}
		if n := b.up.Count("", "/blobs/"); n != 1+breakAfter+1 {
			t.Errorf("%d requests for it: the host was asked while it failed", n)
		}
	})
}

func as(err error, e *Error) bool {
	var p *Error
	if !errors.As(err, &p) {
		return false
	}
	*e = *p
	return true
}

func readFull(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	return err
}
