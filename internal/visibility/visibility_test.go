package visibility

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	app    = registry.Name{Upstream: "up.test", Repository: "lab/app"}
	secret = registry.Name{Upstream: "up.test", Repository: "lab/secret"}
	tag    = upstream.Target{Manifest: "v1"}
	blobA  = digest.FromString("a")
	blobB  = digest.FromString("b")
)

// world answers as an upstream does.
type world struct {
	mu    sync.Mutex
	kinds map[string]upstream.Kind // by repository, or repository@digest
	asked []string
	wait  time.Duration
}

func (w *world) ask(ctx context.Context, n registry.Name, t upstream.Target) error {
	if w.wait > 0 {
		select {
		case <-time.After(w.wait):
		case <-ctx.Done():
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := n.Repository
	if d := digestOf(t); d != "" {
		key += "@" + d.String()
	}
	w.asked = append(w.asked, key)
	kind, ok := w.kinds[key]
	if !ok {
		kind = w.kinds[n.Repository]
	}
	if kind == upstream.None {
		return nil
	}
	return &upstream.Error{Op: "visibility", Upstream: n.Upstream, Repo: n.Repository, Kind: kind, Err: errors.New("as the test says")}
}

func (w *world) set(key string, k upstream.Kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kinds == nil {
		w.kinds = map[string]upstream.Kind{}
	}
	w.kinds[key] = k
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

func (w *world) public(file string) *Public {
	return NewPublic(Options{Ask: w.ask, File: file, Stale: func(string) time.Duration { return 24 * time.Hour }})
}

func want(t *testing.T, err error, kind upstream.Kind) {
	t.Helper()
	if upstream.KindOf(err) != kind {
		t.Errorf("%v, want %v", err, kind)
	}
}

// contract 27: one question per repository and while a verdict holds; a public
// one stands in for a while when nobody can tell, a private one never becomes
// public by that.
func TestContract27Verdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.set("lab/secret", upstream.Denied)
		p := w.public("")
		defer p.Close()
		ctx := t.Context()
		asked := func(n int) {
			t.Helper()
			if w.count() != n {
				t.Errorf("asked %d times, want %d: %v", w.count(), n, w.asked)
			}
		}
		p.Learn(app, blobA)
		for range 3 {
			want(t, p.Check(ctx, app, tag), upstream.None)
			want(t, p.Check(ctx, app, upstream.Target{Blob: blobA}), upstream.None)
			want(t, p.Check(ctx, app, upstream.Target{}), upstream.None)
			want(t, p.Check(ctx, secret, tag), upstream.Denied)
			want(t, p.Check(ctx, secret, upstream.Target{Blob: blobB}), upstream.Denied)
		}
		asked(2)
		time.Sleep(publicFor + time.Second)
		want(t, p.Check(ctx, app, tag), upstream.None)
		asked(3)

		w.set("lab/app", upstream.Unavailable)
		w.set("lab/secret", upstream.Unavailable)
		time.Sleep(23 * time.Hour)
		want(t, p.Check(ctx, app, upstream.Target{Blob: blobA}), upstream.None)
		want(t, p.Check(ctx, app, upstream.Target{Blob: blobB}), upstream.Unavailable) // never seen there
		want(t, p.Check(ctx, secret, tag), upstream.Unavailable)
		time.Sleep(time.Hour)
		want(t, p.Check(ctx, app, upstream.Target{Blob: blobA}), upstream.Unavailable)

		w.set("lab/app", upstream.Denied) // it was made private
		want(t, p.Check(ctx, app, tag), upstream.Denied)
		w.set("lab/app", upstream.None)
		want(t, p.Check(ctx, app, tag), upstream.Denied)
		time.Sleep(privateFor)
		want(t, p.Check(ctx, app, tag), upstream.None)
	})
}

// contract 27: a herd asks once, and whoever leaves does not end the question of the others.
func TestContract27SingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world{wait: time.Second}
		p := w.public("")
		defer p.Close()
		hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 50 {
			ctx := t.Context()
			if i == 0 {
				ctx = hasty
			}
			wg.Go(func() {
				if err := p.Check(ctx, app, tag); (err != nil) != (i == 0) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if w.count() != 1 {
			t.Errorf("asked %d times", w.count())
		}
	})
}

// contract 24: a digest counts for the repository that has it; where a private
// one has it, too, being named in a manifest is not enough.
func TestContract24Digests(t *testing.T) {
	var w world
	w.set("lab/secret", upstream.Denied)
	w.set("lab/app@"+blobB.String(), upstream.NotFound)
	p := w.public("")
	defer p.Close()
	ctx := t.Context()
	want(t, p.Check(ctx, app, tag), upstream.None)
	want(t, p.Check(ctx, secret, tag), upstream.Denied)
	p.Prove(secret, blobB)
	p.Learn(app, blobA, blobB) // somebody pushed a manifest that names both
	p.Learn(secret, blobA)
	before := w.count()
	want(t, p.Check(ctx, app, upstream.Target{Blob: blobB}), upstream.NotFound)
	want(t, p.Check(ctx, app, upstream.Target{Blob: blobA}), upstream.None) // a layer of both
	for range 3 {
		want(t, p.Check(ctx, app, upstream.Target{Blob: blobB}), upstream.NotFound)
		want(t, p.Check(ctx, app, upstream.Target{Blob: blobA}), upstream.None)
	}
	if n := w.count() - before; n != 2 {
		t.Errorf("asked %d times, want once for each", n)
	}
	private := func(registry.Name) bool { return true }
	other := registry.Name{Upstream: "shared.test", Repository: "x"}
	if !p.Foreign(other, blobB, private) || p.Foreign(secret, blobB, private) || p.Foreign(other, digest.FromString("new"), private) {
		t.Error("what is foreign is not known as such")
	}
}

// contract 27: what a list of tags, or of one digest, is refused or given says
// nothing of the repository; one that is not there is no answer for another.
func TestWhatSaysNothing(t *testing.T) {
	var w world
	p := w.public("")
	defer p.Close()
	ctx := t.Context()
	w.set("lab/app", upstream.Denied)
	w.set("lab/secret", upstream.None)
	want(t, p.Check(ctx, app, upstream.Target{}), upstream.Denied)
	want(t, p.Check(ctx, secret, upstream.Target{}), upstream.None)
	w.set("lab/app", upstream.None)
	w.set("lab/secret", upstream.Denied)
	want(t, p.Check(ctx, app, tag), upstream.None)
	want(t, p.Check(ctx, secret, tag), upstream.Denied)

	w.set("lab/app@"+blobB.String(), upstream.Denied) // instead of 404
	want(t, p.Check(ctx, app, upstream.Target{Blob: blobB}), upstream.Denied)
	want(t, p.Check(ctx, app, upstream.Target{Blob: blobB}), upstream.NotFound)
	want(t, p.Check(ctx, app, tag), upstream.None)
}

// contract 27: who waits for somebody else's question is not told that his own is
// not there.
func TestSharedQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		missing := upstream.Target{Manifest: "missing"}
		p := NewPublic(Options{Stale: func(string) time.Duration { return 0 }, Ask: func(_ context.Context, _ registry.Name, target upstream.Target) error {
			time.Sleep(100 * time.Millisecond)
			if target == missing {
				return &upstream.Error{Kind: upstream.NotFound, Err: errors.New("no such tag")}
			}
			return nil
		}})
		defer p.Close()
		var wg sync.WaitGroup
		wg.Go(func() { want(t, p.Check(t.Context(), app, missing), upstream.NotFound) })
		synctest.Wait()
		want(t, p.Check(t.Context(), app, tag), upstream.None)
		wg.Wait()
	})
}

// Where no upstream may ever be asked, what was not seen to be private is for
// everybody.
func TestOffline(t *testing.T) {
	var w world
	w.set("lab/secret", upstream.Denied)
	file := filepath.Join(t.TempDir(), "visibility.json")
	p := w.public(file)
	want(t, p.Check(t.Context(), secret, tag), upstream.Denied)
	p.Close()
	w.set("lab/secret", upstream.Offline)
	w.set("lab/app", upstream.Offline)
	p = NewPublic(Options{Ask: w.ask, File: file, Stale: func(string) time.Duration { return 0 }, Now: func() time.Time { return time.Now().Add(1000 * time.Hour) },
		Has: func(n registry.Name, d digest.Digest) bool { return n == app && d == blobA }})
	defer p.Close()
	want(t, p.Check(t.Context(), secret, tag), upstream.Denied)
	want(t, p.Check(t.Context(), app, tag), upstream.None)
	want(t, p.Check(t.Context(), app, upstream.Target{Blob: blobA}), upstream.None)
	want(t, p.Check(t.Context(), app, upstream.Target{Blob: blobB}), upstream.Offline)
}

// Verdicts outlive the process; a file that is broken is no more than none.
func TestMemory(t *testing.T) {
	var w world
	w.set("lab/secret", upstream.Denied)
	file := filepath.Join(t.TempDir(), "visibility.json")
	p := w.public(file)
	want(t, p.Check(t.Context(), app, tag), upstream.None)
	want(t, p.Check(t.Context(), secret, tag), upstream.Denied)
	p.Close()
	want(t, p.Check(t.Context(), registry.Name{Upstream: "up.test", Repository: "new"}, tag), upstream.Canceled)
	before := w.count()
	p = w.public(file)
	want(t, p.Check(t.Context(), app, tag), upstream.None)
	want(t, p.Check(t.Context(), secret, tag), upstream.Denied)
	p.Close()
	if w.count() != before {
		t.Error("asked again after a restart")
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = w.public(file)
	defer p.Close()
	want(t, p.Check(t.Context(), app, tag), upstream.None)
	if w.count() != before+1 {
		t.Error("a broken file counts")
	}
}

// What is new outlives a process that is killed.
func TestMemoryOfTheKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		file := filepath.Join(t.TempDir(), "visibility.json")
		killed := w.public(file)
		defer killed.Close()
		want(t, killed.Check(t.Context(), app, tag), upstream.None)
		time.Sleep(saveNew + time.Millisecond)
		synctest.Wait()
		w.set("lab/app", upstream.Unavailable)
		p := w.public(file)
		defer p.Close()
		want(t, p.Check(t.Context(), app, tag), upstream.None)
		if w.count() != 1 {
			t.Error("it is not remembered")
		}
	})
}

// What the client of the upstream saw by the way spares the question.
func TestSeen(t *testing.T) {
	var w world
	at := time.Time{}
	p := NewPublic(Options{Ask: w.ask, Stale: func(string) time.Duration { return 0 }, Seen: func(registry.Name) time.Time { return at }})
	defer p.Close()
	at = time.Now()
	want(t, p.Check(t.Context(), app, tag), upstream.None)
	if w.count() != 0 {
		t.Error("asked")
	}
}

// contract 25 and 26: a token is shown once, remembered as a hash and no longer
// than it lives, and counts for its repository.
func TestContract26Tokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		p := w.public("")
		defer p.Close()
		var shown []string
		good := "Bearer good"
		tokens := NewTokens(func(_ context.Context, n registry.Name, target upstream.Target, authorization string) error {
			shown = append(shown, n.Repository+" "+authorization)
			if n == secret && strings.HasPrefix(authorization, "Bearer good") && digestOf(target) != blobB {
				return nil
			}
			kind := upstream.Denied
			if digestOf(target) == blobB {
				kind = upstream.NotFound
			}
			return &upstream.Error{Kind: kind, Err: errors.New("no")}
		}, p, nil)
		ctx := t.Context()
		steps := func(n int, f func()) {
			t.Helper()
			before := len(shown)
			f()
			if got := len(shown) - before; got != n {
				t.Errorf("shown %d times, want %d: %v", got, n, shown[before:])
			}
		}
		steps(1, func() {
			for range 3 {
				want(t, tokens.Check(ctx, secret, tag, good), upstream.None)
				want(t, tokens.Check(ctx, secret, upstream.Target{Manifest: "v2"}, good), upstream.None)
			}
		})
		steps(1, func() { // a digest that is not known to be its own
			want(t, tokens.Check(ctx, secret, upstream.Target{Blob: blobA}, good), upstream.None)
			want(t, tokens.Check(ctx, secret, upstream.Target{Blob: blobA}, good), upstream.None)
		})
		steps(1, func() {
			want(t, tokens.Check(ctx, secret, upstream.Target{Blob: blobB}, good), upstream.NotFound)
			want(t, tokens.Check(ctx, secret, upstream.Target{Blob: blobB}, good), upstream.NotFound)
		})
		steps(1, func() { want(t, tokens.Check(ctx, app, tag, good), upstream.Denied) })
		steps(1, func() {
			want(t, tokens.Check(ctx, secret, tag, "Bearer bad"), upstream.Denied)
			want(t, tokens.Check(ctx, secret, tag, "Bearer bad"), upstream.Denied)
		})
		steps(0, func() {
			for _, no := range []string{"", "Basic Zzo=", "Basic Og==", "Bearer", "Bearer ", "Negotiate x"} {
				want(t, tokens.Check(ctx, secret, tag, no), upstream.Denied)
			}
		})
		time.Sleep(acceptedFor)
		steps(1, func() { want(t, tokens.Check(ctx, secret, tag, good), upstream.None) })

		short := jwt("good", time.Now().Add(time.Minute))
		steps(1, func() {
			want(t, tokens.Check(ctx, secret, tag, short), upstream.None)
			time.Sleep(59 * time.Second)
			want(t, tokens.Check(ctx, secret, tag, short), upstream.None)
		})
		time.Sleep(time.Second)
		steps(1, func() { want(t, tokens.Check(ctx, secret, tag, short), upstream.None) })
		if dump := fmt.Sprintf("%+v", tokens.verdicts); strings.Contains(dump, "good") {
			t.Error("a token is kept")
		}
	})
}

// jwt is a token that begins with some text and says when it ends.
func jwt(begin string, end time.Time) string {
	return "Bearer " + begin + "." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, end.Unix())) + ".x"
}

// contract 25: the upstream is asked once for its challenge.
func TestContract25Challenges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(world).public("")
		defer p.Close()
		asked := 0
		fail := error(&upstream.Error{Kind: upstream.Unavailable, Err: errors.New("down")})
		c := NewChallenges(func(context.Context, registry.Name, upstream.Target) (string, error) {
			asked++
			return "Bearer realm", fail
		}, p, nil)
		if _, err := c.Of(t.Context(), secret, tag); err == nil {
			t.Error("no error")
		}
		fail = nil
		for range 3 {
			if text, err := c.Of(t.Context(), secret, tag); text != "Bearer realm" || err != nil {
				t.Errorf("%q, %v", text, err)
			}
		}
		time.Sleep(challengeFor)
		_, _ = c.Of(t.Context(), secret, tag)
		if asked != 3 {
			t.Errorf("asked %d times", asked)
		}
	})
}
