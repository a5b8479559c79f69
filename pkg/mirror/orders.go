package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
)

// orders are what seeders have this host fetch ahead. They are kept in
// DATA/orders.json, so that a restart loses none.
type orders struct {
	file   string
	share  int // percent of the store that they may take; 0: none is taken
	log    *zap.Logger
	trusts func(peer.ID) bool
	holds  func(digest.Digest) (have int64) // bytes of a blob that are here

	mu   sync.Mutex
	list []*order
	wake chan struct{} // has a token when there is something new to do
}

// order is one of them. The fields with a key are kept.
type order struct {
	Seeder    string         `json:"seeder"` // peer ID
	ID        string         `json:"id"`     // the seeder's
	Images    []orderedImage `json:"images"`
	Platforms []string       `json:"platforms,omitempty"`
	Rate      int64          `json:"rate,omitempty"`
	Until     time.Time      `json:"until"`

	phase p2p.Phase
	err   string
	done  int // images
	blobs map[digest.Digest]int64
	retry time.Time     // not before
	pause time.Duration // of the last retry
	stop  func(error)   // ends the work on it; nil while there is none
}

type orderedImage struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest"`
	Checked    time.Time     `json:"checked"` // when the tag meant the digest
}

const (
	maxTaken      = 64
	maxOrdersFile = 64 << 20
)

// Reasons why work on an order ends.
var (
	errOrderCanceled = errors.New("the seeder took the order back")
	errOrderLate     = errors.New("the deadline passed")
)

// open reads what an earlier process was told.
func (o *orders) open() {
	o.wake = make(chan struct{}, 1)
	st, err := os.Stat(o.file)
	if err == nil && st.Size() > maxOrdersFile {
		err = fmt.Errorf("it has %d bytes", st.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(o.file)
	}
	if err == nil {
		err = json.Unmarshal(b, &o.list)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.log.Warn("what the seeder had this host fetch ahead cannot be read; the seeder says it again", zap.String("file", o.file), zap.Error(err))
		o.list = nil
	}
	for _, x := range o.list {
		x.phase = p2p.OrderQueued
	}
	o.poke()
}

// take is what a seeder's message does.
func (o *orders) take(from peer.ID, sent []p2p.Order) ([]p2p.OrderState, error) {
	if !o.trusts(from) {
		return nil, fmt.Errorf("%s is none of this host's seeders", from)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	changed := false
	states := make([]p2p.OrderState, len(sent))
	for i, s := range sent {
		x := o.find(from, s.ID)
		switch {
		case s.Cancel:
			if x != nil {
				o.drop(x)
				changed = true
			}
			states[i] = p2p.OrderState{ID: s.ID}
			continue
		case x == nil && len(s.Images) > 0:
			if why := o.refuses(); why != "" {
				states[i] = p2p.OrderState{ID: s.ID, Phase: p2p.OrderRefused, Error: why}
				continue
			}
			x = newOrder(from, s)
			o.list = append(o.list, x)
			changed = true
			o.log.Info("order taken", zap.String("order", x.ID), zap.Int("images", len(x.Images)), zap.Time("until", x.Until), zap.Int64("rate", x.Rate))
		}
		states[i] = p2p.OrderState{ID: s.ID}
		if x != nil {
			states[i] = o.state(x)
		}
	}
	if changed {
		o.save()
		o.poke()
	}
	return states, nil
}

// refuses tells why no order is taken; "" where they are.
func (o *orders) refuses() string {
	switch {
	case o.share == 0:
		return "prewarm is switched off on this host (--prewarm-share 0)"
	case len(o.list) >= maxTaken:
		return fmt.Sprintf("%d orders are here already", len(o.list))
	}
	return ""
}

func newOrder(from peer.ID, s p2p.Order) *order {
	now := time.Now()
	x := &order{Seeder: from.String(), ID: s.ID, Platforms: s.Platforms, Rate: s.Rate, Until: now.Add(s.Left).UTC(), phase: p2p.OrderQueued}
	for _, i := range s.Images {
		x.Images = append(x.Images, orderedImage{Repository: i.Repository, Tag: i.Tag, Digest: i.Digest, Checked: now.Add(-i.Age).UTC()})
	}
	return x
}

func (o *orders) find(from peer.ID, id string) *order {
	for _, x := range o.list {
		if x.ID == id && x.Seeder == from.String() {
			return x
		}
	}
	return nil
}

// drop forgets an order. The lock is held.
func (o *orders) drop(x *order) {
	if x.stop != nil {
		x.stop(errOrderCanceled)
	}
	o.list = slices.DeleteFunc(o.list, func(y *order) bool { return y == x })
}

// state is how far an order is. The lock is held.
func (o *orders) state(x *order) p2p.OrderState {
	st := p2p.OrderState{ID: x.ID, Phase: x.phase, Images: len(x.Images), ImagesDone: x.done, Error: x.err}
	for d, size := range x.blobs {
		st.BytesTotal += size
		st.Bytes += min(o.holds(d), size)
	}
	return st
}

// save keeps the orders for the next start. The lock is held.
func (o *orders) save() {
	b, err := json.Marshal(o.list)
	if err == nil {
		err = renameio.WriteFile(o.file, append(b, '\n'), 0o600)
	}
	if err != nil {
		o.log.Warn("cannot keep what the seeder had this host fetch ahead; after a restart the seeder says it again", zap.String("file", o.file), zap.Error(err))
	}
}

func (o *orders) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// next is the order to work on now, or how long there is none. Orders whose
// deadline has passed are forgotten.
func (o *orders) next(now time.Time) (*order, time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.list)
	o.list = slices.DeleteFunc(o.list, func(x *order) bool { return !x.Until.After(now) })
	if len(o.list) < n {
		o.save()
	}
	wait := time.Hour
	for _, x := range o.list {
		wait = min(wait, x.Until.Sub(now))
		if x.phase == p2p.OrderDone || x.phase == p2p.OrderRefused {
			continue
		}
		if !x.retry.After(now) {
			return x, 0
		}
		wait = min(wait, x.retry.Sub(now))
	}
	return nil, wait
}

// counts tells metrics how many there are of each phase.
func (o *orders) counts() map[p2p.Phase]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := make(map[p2p.Phase]int)
	for _, x := range o.list {
		n[x.phase]++
	}
	return n
}

// name is the repository of an image that was ordered.
func (i orderedImage) name() (registry.Name, error) { return registry.ParseName(i.Repository) }

func ordersFile(data string) string { return filepath.Join(data, "orders.json") }

// firstLine keeps what is told to a seeder to one line.
func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return strings.ToValidUTF8(s[:min(len(s), 280)], "")
}
