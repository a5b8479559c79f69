package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// hedgeAfter is how long one that can tell whether a repository is public is
// waited for before the next is asked, too.
const hedgeAfter = time.Second

// policy says whom private content of an upstream is given to.
func (s *seeders) policy(up string) string {
	s.mu.Lock()
	way := s.private[up]
	s.mu.Unlock()
	switch way {
	case config.PrivateByClient, config.PrivateShared, config.PrivateNever:
		return way
	case "":
		return s.c.Private.Private
	}
	return config.PrivateByClient // a word that a newer seeder may know
}

// itself is the client that asks an upstream itself: for a seeder's own
// repositories it is the seeder's.
func (s *seeders) itself(up string) *upstream.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.local[up]; c != nil {
		return c
	}
	return s.direct
}

// judges are those that can tell whether a repository is public: the seeders,
// so that a swarm asks the upstream once, and then the upstream.
func (s *seeders) judges(up string) []*upstream.Client {
	var list []*upstream.Client
	for _, src := range s.sources(up) {
		if c, ok := src.Client.(*upstream.Client); ok {
			list = append(list, c)
		}
	}
	if c := s.itself(up); c == s.direct {
		if _, ok := c.URL(up); ok {
			list = append(list, c)
		}
	}
	return list
}

// public asks whether anybody may be given the target; see
// visibility.Options.Ask.
func (s *seeders) public(ctx context.Context, n registry.Name, t upstream.Target) error {
	list := s.judges(n.Upstream)
	if len(list) == 0 {
		return fmt.Errorf("nobody can tell whether %s is public: neither a seeder nor an upstream is known", n)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // the first answer counts
	answers := make(chan error, len(list))
	next := time.NewTimer(0)
	defer next.Stop()
	waiting := 0
	var last error
	for len(list) > 0 || waiting > 0 {
		select {
		case <-next.C:
			if len(list) == 0 {
				continue
			}
			c := list[0]
			list = list[1:]
			waiting++
			wg.Go(func() { answers <- c.Public(ctx, n.Upstream, n.Repository, t) })
			next.Reset(hedgeAfter)
		case err := <-answers:
			waiting--
			switch upstream.KindOf(err) {
			case upstream.None, upstream.Denied, upstream.NotFound, upstream.Refused:
				return err
			case upstream.Offline:
				last = errors.Join(last, err) // it was not asked: what others say counts more
			default:
				last = errors.Join(err, last)
			}
			next.Reset(0)
		}
	}
	return last
}

func digestOf(t upstream.Target) digest.Digest {
	if t.Blob != "" {
		return t.Blob
	}
	if registry.IsDigest(t.Manifest) {
		return digest.Digest(t.Manifest)
	}
	return ""
}
