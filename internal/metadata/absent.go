package metadata

import (
	"strings"
	"sync"
	"time"

	"github.com/samara-p2p/samara/pkg/registry"
)

// maxAbsent bounds the questions that are remembered as answered with 404.
const maxAbsent = 10_000

// absent remembers for a while what a source said it does not have, so that a
// client that asks in a loop does not use up the upstream's patience. Other
// failures are not remembered: they say nothing about the thing asked for.
type absent struct {
	mu    sync.Mutex
	until map[string]absence
}

type absence struct {
	err error
	end time.Time
}

// get is the error that a question was answered with lately, or nil.
func (a *absent) get(key string, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	x, ok := a.until[key]
	if !ok {
		return nil
	}
	if !now.Before(x.end) {
		delete(a.until, key)
		return nil
	}
	return x.err
}

// forget drops what is remembered of a repository.
func (a *absent) forget(n registry.Name) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range a.until {
		_, of, _ := strings.Cut(k, " ") // see shared
		if rest, ok := strings.CutPrefix(of, n.String()); ok && (rest == "" || strings.ContainsRune("@: ", rune(rest[0]))) {
			delete(a.until, k)
		}
	}
}

func (a *absent) put(key string, err error, now time.Time, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.until == nil {
		a.until = make(map[string]absence)
	}
	if len(a.until) >= maxAbsent {
		for k, x := range a.until {
			if !now.Before(x.end) {
				delete(a.until, k)
			}
		}
	}
	for k := range a.until { // some others, whichever come
		if len(a.until) < maxAbsent {
			break
		}
		delete(a.until, k)
	}
	a.until[key] = absence{err, now.Add(ttl)}
}
