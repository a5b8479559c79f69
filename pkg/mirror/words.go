package mirror

import (
	"context"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/visibility"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Who is asked for a word, and how long others may still say something newer.
const (
	wordNeighbours = 16
	wordProviders  = 10
	wordGrace      = 200 * time.Millisecond
)

// words asks peers who may be given what, while neither a seeder nor the
// upstream can be asked. Peers are those that the swarm key admits: in an open
// swarm nobody's word counts.
type words struct {
	net  vouchers
	join func(context.Context) error // waits for a place in the swarm
}

// vouchers is what words asks of the node (*p2p.Node).
type vouchers interface {
	Neighbours() []p2p.Neighbour
	AddrInfo(peer.ID) peer.AddrInfo
	Providers(ctx context.Context, c cid.Cid, limit int) <-chan peer.AddrInfo
	// Visibility asks one peer; any error means that it has no word.
	Visibility(ctx context.Context, to peer.AddrInfo, repository string, d digest.Digest) (p2p.Visibility, error)
}

// hear is visibility.Options.Hear. Neighbours are asked, and whoever the DHT says
// has the digest. Where they do not agree the newest word counts, and of two that
// are as new the one that gives less away.
func (w *words) hear(ctx context.Context, n registry.Name, d digest.Digest) (best visibility.Word, ok bool) {
	if w.join(ctx) != nil {
		return best, false
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	said := make(chan visibility.Word)
	asking := 0
	ask := func(ai peer.AddrInfo) {
		asking++
		wg.Go(func() {
			v, err := w.net.Visibility(ctx, ai, n.String(), d)
			word := visibility.Word(v)
			if err != nil || v.Public && d != "" && !v.Has {
				word.Age = -1 // it says nothing
			}
			select {
			case said <- word:
			case <-ctx.Done():
			}
		})
	}
	for i, nb := range w.net.Neighbours() {
		if i < wordNeighbours {
			ask(w.net.AddrInfo(nb.ID))
		}
	}
	var far <-chan peer.AddrInfo
	if key, err := piece.BlobCID(d); err == nil {
		far = w.net.Providers(ctx, key, wordProviders)
	}
	var grace <-chan time.Time
	for asking > 0 || far != nil {
		select {
		case ai, more := <-far:
			if !more {
				far = nil
				continue
			}
			ask(ai)
		case word := <-said:
			asking--
			if word.Age < 0 {
				continue
			}
			if !ok || word.Age < best.Age || word.Age == best.Age && !word.Public {
				best, ok = word, true
			}
			if grace == nil {
				grace = time.After(wordGrace)
			}
		case <-grace:
			return best, ok
		case <-ctx.Done():
			return best, ok
		}
	}
	return best, ok
}

// tell is what peers are told.
func (g *gate) tell(repository string, d digest.Digest) (p2p.Visibility, bool) {
	n, err := registry.ParseName(repository)
	if err != nil {
		return p2p.Visibility{}, false
	}
	word, ok := g.public.Vouch(n, d)
	return p2p.Visibility(word), ok
}

// joining is how long after its start a peerd may still be on its way into the
// swarm.
const joining = 15 * time.Second

// joined waits until a peerd that has just started has its place in the swarm.
func joined(d *daemon.Daemon) func(context.Context) error {
	began := time.Now()
	return func(ctx context.Context) error {
		for time.Since(began) < joining && d.Node.DHTSize() == 0 && len(d.Node.Neighbours()) == 0 {
			t := time.NewTimer(50 * time.Millisecond)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return context.Cause(ctx)
			}
		}
		return nil
	}
}
