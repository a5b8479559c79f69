package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/daemon"
)

// How often the seeders are asked who they are: soon again after a failure,
// now and then afterwards, since upstreams may be added; and at once when one
// comes back into the swarm, since it may have been set up anew.
const (
	lookEvery    = time.Second
	refreshSoon  = time.Second
	refreshSlow  = 30 * time.Second
	refreshEvery = 5 * time.Minute
	firstTry     = 2 * time.Second // bounds the one before the first client
)

// begin asks every seeder before the first client comes. It fails where a
// daemon that is set up wrongly should say so at once: no seeder is known, and
// what answers is none, or not of this swarm.
func (s *seeders) begin(ctx context.Context) error {
	if len(s.list) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	s.refresh(ctx, s.list)
	if s.known() {
		return nil
	}
	var errs []error
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.list {
		if !k.refused {
			return nil // it may still come
		}
		errs = append(errs, k.err)
	}
	return errors.Join(errs...)
}

// keepFresh asks the seeders again and again until ctx ends.
func (s *seeders) keepFresh(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for len(s.list) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if due := s.dueAt(time.Now()); len(due) > 0 {
			s.refresh(ctx, due)
		}
	}
}

// dueAt are the seeders that are to be asked now.
func (s *seeders) dueAt(now time.Time) []*seeder {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []*seeder
	for _, k := range s.list {
		came, left := s.look(k, now)
		if !now.Before(k.due) || (came || left && k.err == nil) && now.Sub(k.asked) >= refreshSoon {
			due = append(due, k)
		}
	}
	return due
}

// look tells whether a seeder has come into, or left, the swarm since it was
// asked.
func (s *seeders) look(k *seeder, now time.Time) (came, left bool) {
	if k.in == nil {
		return false, false
	}
	id, err := peer.Decode(k.in.PeerID)
	if err != nil {
		return false, false
	}
	nb, up := s.net.Neighbour(id)
	if up != k.up || k.upSince.IsZero() {
		left = k.up && !up
		k.up, k.upSince = up, now
	}
	return up && nb.Since.After(k.asked), left
}

// refresh asks seeders who they are, all at the same time.
func (s *seeders) refresh(ctx context.Context, list []*seeder) {
	changed := make([]bool, len(list))
	var wg sync.WaitGroup
	for i, k := range list {
		wg.Go(func() { changed[i] = s.meet(ctx, k) })
	}
	wg.Wait()
	for _, c := range changed {
		if c {
			s.apply()
			s.save()
			return
		}
	}
}

// refusal is a reason not to use what answers.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// meet asks one seeder who it is, and tells whether that is news.
func (s *seeders) meet(ctx context.Context, k *seeder) (changed bool) {
	in, err := daemon.Introduce(ctx, s.client, k.url)
	if err == nil {
		err = s.check(k, in)
	} else if errors.Is(err, daemon.ErrNoSeeder) {
		err = refusal{err}
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	k.err, k.asked = err, now
	k.refused = errors.As(err, new(refusal))
	if err == nil {
		changed = k.in == nil || !same(k.in, in)
		k.in, k.said, k.pause = in, "", 0
		// Spread, so that a herd does not stay one.
		k.due = now.Add(refreshEvery - time.Duration(rand.Int64N(int64(refreshEvery/5))))
		k.source.Alive()
		return changed
	}
	k.pause = min(max(2*k.pause, refreshSoon), refreshSlow)
	k.due = now.Add(k.pause)
	if k.said != err.Error() && !errors.Is(err, context.Canceled) {
		k.said = err.Error()
		fields := []zap.Field{zap.String("url", k.url), zap.Error(err)}
		if !k.refused { // a refusal says itself what to do
			fields = append(fields, zap.String("remedy", "check that --seeder is the URL of a running seeder's registry API and that this host reaches it"))
		}
		s.log.Error("a seeder cannot be used; trying again", fields...)
	}
	return false
}

// check compares an introduction with what this peerd was told to expect, or
// has learned the first time.
func (s *seeders) check(k *seeder, in *daemon.Introduction) error {
	s.mu.Lock()
	before := k.in
	s.mu.Unlock()
	switch {
	case s.c.SeederID != "" && in.PeerID != s.c.SeederID:
		return refusal{fmt.Errorf("the seeder at %s is %s, not %s as --seeder-id says; if it was set up anew, give its new ID", k.url, in.PeerID, s.c.SeederID)}
	case s.c.SeederID == "" && before != nil && in.PeerID != before.PeerID:
		return refusal{fmt.Errorf("the seeder at %s was %s so far and is %s now; if it was set up anew, stop this peerd and remove %s (or give --seeder-id %s); if not, somebody else answers there",
			k.url, before.PeerID, in.PeerID, s.file, in.PeerID)}
	case s.psk == in.SwarmKey:
		return nil
	case s.psk == "":
		return refusal{fmt.Errorf("the seeder at %s is in a swarm with a key (fingerprint %s), this peerd in an open one; copy the seeder's swarm.key here and name it with --swarm-key", k.url, in.SwarmKey)}
	case in.SwarmKey == "":
		return refusal{fmt.Errorf("the seeder at %s is in an open swarm, this peerd in one with a swarm key (fingerprint %s); start both with the same --swarm-key or both with --open-swarm", k.url, s.psk)}
	}
	return refusal{fmt.Errorf("wrong swarm key: the seeder at %s has the one with fingerprint %s, this peerd %s; copy the seeder's swarm.key here and name it with --swarm-key", k.url, in.SwarmKey, s.psk)}
}

func same(a, b *daemon.Introduction) bool {
	x, errx := json.Marshal(a)
	y, erry := json.Marshal(b)
	return errx == nil && erry == nil && string(x) == string(y)
}
