package visibility

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

const challengeFor = 5 * time.Minute

// Challenges remembers how upstreams ask for a token. Safe for concurrent use.
type Challenges struct {
	get    func(ctx context.Context, n registry.Name, t upstream.Target) (string, error)
	public *Public // whose questions end with it
	now    func() time.Time
	flight singleflight.Group

	mu    sync.Mutex
	known map[registry.Name]challenge
}

type challenge struct {
	text  string // "" for none that may be passed on
	until time.Time
}

// NewChallenges makes an empty one. get asks the upstream. now is the clock; nil
// for time.Now.
func NewChallenges(get func(ctx context.Context, n registry.Name, t upstream.Target) (string, error), p *Public, now func() time.Time) *Challenges {
	if now == nil {
		now = time.Now
	}
	return &Challenges{get: get, public: p, now: now, known: map[registry.Name]challenge{}}
}

// Of is the challenge for a repository, "" where there is none to pass on. The
// target is what the client asks for.
func (c *Challenges) Of(ctx context.Context, n registry.Name, t upstream.Target) (string, error) {
	c.mu.Lock()
	k, ok := c.known[n]
	c.mu.Unlock()
	if ok && c.now().Before(k.until) {
		return k.text, nil
	}
	ch := c.flight.DoChan(n.String(), func() (any, error) {
		if !c.public.begin() {
			return "", context.Canceled
		}
		defer c.public.wg.Done()
		ctx, cancel := context.WithTimeout(c.public.ctx, askTimeout)
		defer cancel()
		text, err := c.get(ctx, n, t)
		if err == nil {
			c.put(n, challenge{text, c.now().Add(challengeFor)})
		}
		return text, err
	})
	select {
	case r := <-ch:
		text, _ := r.Val.(string)
		return text, r.Err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (c *Challenges) put(n registry.Name, k challenge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxRepositories {
		clear(c.known) // they are asked for again, one by one
	}
	c.known[n] = k
}
