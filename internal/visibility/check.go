package visibility

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// check is one request for what is not known to be public or private now.
type check struct {
	p     *Public
	n     registry.Name
	t     upstream.Target
	d     digest.Digest // of the target; "" for a tag, or the repository as such
	own   bool          // d is the repository's, or empty
	stand bool          // an older verdict stands in while nobody can tell

	err error // what those that were asked said last
}

// run asks those that can tell. While they are silent, or cannot, the older
// verdict counts, and then the word of peers.
func (c *check) run(ctx context.Context) error {
	answer, wait := c.ask(ctx)
	var word <-chan singleflight.Result
	heard := false
	patient := time.NewTimer(wait)
	defer patient.Stop()
	for {
		if answer == nil && c.stand {
			c.p.count(c.n, "stale")
			return nil
		}
		if answer == nil && !heard {
			word, heard = c.p.hear(c.n, c.d), true
		}
		if answer == nil && word == nil {
			return c.err
		}
		select {
		case r := <-answer:
			kind := upstream.KindOf(r.Err)
			if asked, _ := r.Val.(upstream.Target); kind == upstream.NotFound && asked != c.t {
				answer = c.p.ask(ctx, c.n.String()+" "+c.t.Manifest+c.t.Blob.String(), c.n, c.t) // somebody else's is not there
				continue
			}
			if conclusive(kind) || kind == upstream.Offline {
				return r.Err
			}
			answer, c.err = nil, r.Err
			if v, _ := c.p.verdict(c.n, c.p.o.Now()); v.Public && v.fresh(c.p.o.Now()) && c.own {
				return nil // somebody else got something meanwhile
			}
		case <-patient.C:
			c.p.setSilent(c.n, c.p.o.Now())
			if c.stand {
				answer = nil // it goes on, and what it says counts for the next
				continue
			}
			if !heard {
				word, heard = c.p.hear(c.n, c.d), true
			}
		case r := <-word:
			if r.Err == nil && r.Val.(bool) {
				c.p.count(c.n, "word")
				return nil
			}
			word = nil
		case <-ctx.Done():
			if c.stand {
				c.p.count(c.n, "stale")
				return nil
			}
			return fmt.Errorf("who may have %s: %w", c.n, context.Cause(ctx))
		}
	}
}

// ask asks those that can tell, and says how long they are waited for.
func (c *check) ask(ctx context.Context) (<-chan singleflight.Result, time.Duration) {
	key := c.n.String() // one question for all that is its own
	if !c.own || c.t == (upstream.Target{}) {
		key += " " + c.d.String()
	}
	since, silent := c.p.silentSince(c.n, c.p.o.Now())
	switch {
	case silent && since < silentFor && c.stand:
		return nil, glance
	case silent:
		return c.p.ask(ctx, key, c.n, c.t), glance
	}
	return c.p.ask(ctx, key, c.n, c.t), patience
}

// conclusive tells whether an answer of this kind settles the matter.
func conclusive(k upstream.Kind) bool {
	return k == upstream.None || k == upstream.Denied || k == upstream.NotFound || k == upstream.Refused
}
