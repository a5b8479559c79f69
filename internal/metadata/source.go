package metadata

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Client asks a registry (*upstream.Client). Errors are *upstream.Error.
type Client interface {
	// Head says what a tag or digest is, Manifest also what is in it.
	Head(ctx context.Context, name, repo, ref string) (*upstream.Descriptor, error)
	Manifest(ctx context.Context, name, repo, ref string, accept []string) (*upstream.Manifest, error)
	// BlobSize is in bytes.
	BlobSize(ctx context.Context, name, repo string, d digest.Digest) (int64, error)
	// Tags lists at most n tags (n <= 0: all) after last.
	Tags(ctx context.Context, name, repo string, n int, last string) ([]string, error)
}

// Source is one that can be asked. It has a Client, or Peers.
type Source struct {
	Name   string // for logs and errors: "upstream", "seeder http://10.0.0.1:5000"
	Client Client

	// Relay says that it stands for the upstream: its "not found" is the
	// upstream's, and that it is silent about one upstream says nothing about
	// its health.
	Relay bool
	// Ping returns nil when the source is alive, which tells one that is at
	// work from one that hangs. nil: silence counts as the latter.
	Ping func(ctx context.Context) error

	// Peers has content by digest from whoever holds it: for manifests only,
	// and the last to be asked.
	Peers func(ctx context.Context, d digest.Digest, limit int64) ([]byte, error)

	mu     sync.Mutex
	health map[string]health // by upstream; of a Relay, one
}

// health is what is remembered of a source that cost somebody patience; the
// zero value is good health.
type health struct {
	failed bool      // and has not answered since
	until  time.Time // passed over so long where somebody else can answer
}

// missed is said of what it gave. The word is the first of its name: a client
// need not learn where a seeder is.
func (s *Source) missed() registry.Cached {
	kind, _, _ := strings.Cut(s.Name, " ")
	return registry.Cached{Result: registry.CacheMiss, From: kind}
}

func (s *Source) key(up string) string {
	if s.Relay {
		return ""
	}
	return up
}

func (s *Source) of(up string) health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health[s.key(up)]
}

// Alive notes a sign of life that others saw.
func (s *Source) Alive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.health)
}

// answered notes a sign of life.
func (s *Source) answered(up string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.health, s.key(up))
}

// silent notes that waiting for it was in vain.
func (s *Source) silent(up string, memory time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health == nil {
		s.health = make(map[string]health)
	}
	s.health[s.key(up)] = health{failed: true, until: time.Now().Add(memory)}
}

// Silent tells whether the source was silent when it was last asked about an
// upstream.
func (s *Source) Silent(up string) bool { return s.of(up).failed }
