package mirror

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/samara-p2p/samara/internal/canary"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

const (
	maxRepositories = 512 // that are remembered, the latest
	maxAgents       = 16
	maxAgent        = 40 // bytes of an agent's name
)

// asked remembers which repositories clients have asked for, and with which
// program: what a runtime has pulled and was not asked for here has passed the
// mirror by.
type asked struct {
	mismatches atomic.Int64

	mu           sync.Mutex
	repositories map[registry.Name]time.Time
	agents       map[string]time.Time // by name, as "containerd"
}

func newAsked() *asked {
	return &asked{repositories: map[registry.Name]time.Time{}, agents: map[string]time.Time{}}
}

// wrap is b, whose clients are remembered.
func (a *asked) wrap(b canary.Backend) canary.Backend { return &noting{b, a} }

type noting struct {
	canary.Backend
	asked *asked
}

// Manifest implements registry.Backend. Every pull begins with one.
func (n *noting) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	n.asked.note(r.Name, r.UserAgent, time.Now())
	m, err := n.Backend.Manifest(ctx, r)
	n.asked.judge(err)
	return m, err
}

// Blob implements registry.Backend.
func (n *noting) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	b, err := n.Backend.Blob(ctx, r)
	n.asked.judge(err)
	return b, err
}

// judge counts what could not be given since the bytes on offer were others.
func (a *asked) judge(err error) {
	var ue *upstream.Error
	if errors.Is(err, fetch.ErrCorrupt) || errors.As(err, &ue) && ue.Kind == upstream.Corrupt {
		a.mismatches.Add(1)
	}
}

func (a *asked) note(n registry.Name, agent string, now time.Time) {
	agent, _, _ = strings.Cut(agent, "/")
	agent = agent[:min(len(agent), maxAgent)]
	a.mu.Lock()
	defer a.mu.Unlock()
	a.repositories[n] = now
	if a.agents[agent] = now; agent == "" {
		delete(a.agents, agent)
	}
	forgetOldest(a.repositories, maxRepositories)
	forgetOldest(a.agents, maxAgents)
}

func forgetOldest[K comparable](m map[K]time.Time, limit int) {
	if len(m) <= limit {
		return
	}
	var oldest K
	first := true
	for k, t := range m {
		if first || t.Before(m[oldest]) {
			oldest, first = k, false
		}
	}
	delete(m, oldest)
}

// status adds what is remembered to the status page.
func (a *asked) status(st *status.Status) {
	st.Clients.Mismatches = a.mismatches.Load()
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, t := range a.repositories {
		st.Clients.Repositories = append(st.Clients.Repositories, status.Asked{Name: n.String(), Last: t})
	}
	for agent, t := range a.agents {
		st.Clients.Agents = append(st.Clients.Agents, status.Asked{Name: agent, Last: t})
	}
	for _, list := range [][]status.Asked{st.Clients.Repositories, st.Clients.Agents} {
		slices.SortFunc(list, func(x, y status.Asked) int { return y.Last.Compare(x.Last) })
	}
}
