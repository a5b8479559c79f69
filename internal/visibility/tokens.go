package visibility

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

const (
	acceptedFor = 5 * time.Minute  // at most; a token may end before
	refusedFor  = 10 * time.Second // a client asks for several things at a time
	maxVerdicts = 1 << 16
)

// Show asks the upstream of n whether it gives the target to whoever shows this
// Authorization header; nil if so. Errors are as those of Options.Ask.
type Show func(ctx context.Context, n registry.Name, t upstream.Target, authorization string) error

// Tokens remembers which tokens open which repositories: of a token, no more
// than a hash with a key that ends with the process. Safe for concurrent use.
type Tokens struct {
	show   Show
	public *Public // which digests are whose
	now    func() time.Time
	key    [32]byte
	flight singleflight.Group

	mu       sync.Mutex
	verdicts map[hash]tokenVerdict
}

type hash [sha256.Size]byte

type tokenVerdict struct {
	err   error // nil: it opens the repository
	until time.Time
}

// NewTokens makes an empty one. now is the clock; nil for time.Now.
func NewTokens(show Show, p *Public, now func() time.Time) *Tokens {
	t := &Tokens{show: show, public: p, now: now, verdicts: map[hash]tokenVerdict{}}
	if t.now == nil {
		t.now = time.Now
	}
	_, _ = rand.Read(t.key[:]) // never fails
	return t
}

// hash names what a token is shown for.
func (t *Tokens) hash(n registry.Name, what, authorization string) (h hash) {
	m := hmac.New(sha256.New, t.key[:])
	for _, s := range []string{n.String(), what, authorization} {
		fmt.Fprintf(m, "%d:%s", len(s), s)
	}
	m.Sum(h[:0])
	return h
}

// Check is nil where the upstream gives the target to whoever shows this
// header, or did lately. Only Bearer tokens are shown to an upstream: a password
// is for whom it was typed, and that is not known here.
func (t *Tokens) Check(ctx context.Context, n registry.Name, target upstream.Target, authorization string) error {
	scheme, token, _ := strings.Cut(authorization, " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return &upstream.Error{Op: "visibility", Upstream: n.Upstream, Repo: n.Repository, Kind: upstream.Denied, Err: errors.New("it was shown no token")}
	}
	d := digestOf(target)
	what := "" // the repository as a whole
	if d != "" && !t.public.Own(n, d) {
		what = d.String()
	}
	h := t.hash(n, what, authorization)
	if v, ok := t.find(h); ok {
		return v.err
	}
	ch := t.flight.DoChan(string(h[:]), func() (any, error) {
		if !t.public.begin() {
			return nil, context.Canceled
		}
		defer t.public.wg.Done()
		ctx, cancel := context.WithTimeout(t.public.ctx, askTimeout)
		defer cancel()
		err := t.show(ctx, n, target, authorization)
		switch upstream.KindOf(err) {
		case upstream.None:
			t.put(h, tokenVerdict{nil, t.now().Add(acceptedFor)}, token)
			t.put(t.hash(n, "", authorization), tokenVerdict{nil, t.now().Add(acceptedFor)}, token)
			if d != "" {
				t.public.Prove(n, d)
			}
		case upstream.Denied:
			t.put(h, tokenVerdict{err, t.now().Add(refusedFor)}, "")
		case upstream.NotFound:
			if what != "" { // else it is about one tag of many
				t.put(h, tokenVerdict{err, t.now().Add(refusedFor)}, "")
			}
		}
		return nil, err
	})
	select {
	case r := <-ch:
		return r.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *Tokens) find(h hash) (tokenVerdict, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.verdicts[h]
	if ok && !t.now().Before(v.until) {
		delete(t.verdicts, h)
		return v, false
	}
	return v, ok
}

// put remembers a verdict, no longer than the token says that it lives.
func (t *Tokens) put(h hash, v tokenVerdict, token string) {
	if end, ok := expiry(token); ok && end.Before(v.until) {
		v.until = end
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.verdicts) >= maxVerdicts {
		clear(t.verdicts) // they are asked for again, one by one
	}
	t.verdicts[h] = v
}

// expiry is the exp claim of a token that is a JWT (RFC 7519). Nothing depends
// on its being true: the upstream has just accepted the token.
func expiry(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Expiry *float64 `json:"exp"`
	}
	if json.Unmarshal(b, &claims) != nil || claims.Expiry == nil || *claims.Expiry < 0 || *claims.Expiry > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(*claims.Expiry), 0), true
}
