package prewarm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Network is where hosts are (*p2p.Node).
type Network interface {
	Neighbours() []p2p.Neighbour
	// Prewarm tells a host, and asks how far it is. Errors: p2p.ErrNoOrders, or
	// any other, after which it is asked again.
	Prewarm(ctx context.Context, to peer.ID, orders []p2p.Order) ([]p2p.OrderState, error)
}

// Resolved is what an image means.
type Resolved struct {
	Repository string
	Tag        string // "" where it was named by digest
	Digest     string
}

// Options of a Manager. File, Net and Resolve are required.
type Options struct {
	File string // that keeps orders and schedules
	Net  Network
	// Resolve tells what an image means now. An error that is a
	// *registry.Error below 500 is final.
	Resolve func(ctx context.Context, image string) (Resolved, error)
	Log     *zap.Logger

	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string
}

const (
	defaultBy  = 24 * time.Hour
	longestBy  = 366 * 24 * time.Hour
	maxOpen    = 48  // orders that hosts are told of: each of them takes 64
	maxEnded   = 100 // that are remembered
	maxHosts   = 100_000
	every      = time.Second
	perSecond  = 200 // hosts that are asked in a second, at most
	atOnce     = 32
	slowly     = 10 * time.Second // between questions to hosts that have ended
	unableWait = time.Minute      // and to those that take no orders
	tries      = 10               // of an image whose upstream fails
	tryAgain   = 15 * time.Second
	saveEvery  = 5 * time.Second // how far hosts are; orders are kept at once
)

// Errors of a Manager's methods. BadRequest ones say what is wrong.
var (
	ErrNotFound = errors.New("there is no such order")
	ErrMany     = fmt.Errorf("%d orders are open; cancel some, or give them earlier deadlines", maxOpen)
)

// BadRequest says what is wrong with a request.
type BadRequest struct{ Text string }

func (e *BadRequest) Error() string { return e.Text }

// Manager keeps orders and schedules. Run has them done.
type Manager struct {
	o Options
	m *metrics

	mu        sync.Mutex
	next      int // the next order's ID
	orders    []*order
	schedules []*schedule
	changed   chan struct{} // closed, and made anew, at each change
	dirty     bool          // something has to be kept
	failing   bool          // it could not be
	saved     time.Time     // progress, last
}

// order is one, and what is known of its hosts beside.
type order struct {
	Order
	tries    int
	retry    time.Time // of images that could not be resolved
	asked    map[string]time.Time
	told     map[string]bool // hosts that have the order, as far as is known
	released map[string]bool // hosts that others have replaced
}

// Open reads what an earlier process kept.
func Open(o Options) (*Manager, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	m := &Manager{o: o, next: 1, changed: make(chan struct{})}
	if err := m.load(); err != nil {
		return nil, err
	}
	m.m = newMetrics(m, o.Registerer, o.Namespace)
	return m, nil
}

// check fills in what a request leaves open. Errors: *BadRequest.
func (r *Request) check(now time.Time) error {
	bad := func(format string, args ...any) error { return &BadRequest{fmt.Sprintf(format, args...)} }
	kinds := 0
	for _, given := range []bool{r.All, len(r.Zones) > 0 || r.Hosts > 0, len(r.Peers) > 0} {
		if given {
			kinds++
		}
	}
	switch {
	case len(r.Images) == 0 || len(r.Images) > p2p.MaxOrderImages:
		return bad("images: %d are given, not 1 to %d", len(r.Images), p2p.MaxOrderImages)
	case kinds != 1:
		return bad("give one of all, zones and hosts, or peers")
	case r.Hosts < 0 || r.Hosts > maxHosts:
		return bad("hosts: %d is not within 1 to %d", r.Hosts, maxHosts)
	case r.Rate < 0 || r.Rate > 0 && r.Rate < 1<<20 || r.Rate > 1<<50:
		return bad("rate: %d is not 0 (no limit) or at least 1 MiB in a second", r.Rate)
	case len(r.Platforms) > 16 || len(r.Zones) > 1000 || len(r.Peers) > 1000:
		return bad("more than 16 platforms, or 1000 zones or peers")
	}
	if _, err := registry.ParsePlatforms(r.Platforms); err != nil {
		return bad("platforms: %v", err)
	}
	for _, p := range r.Peers {
		if _, err := peer.Decode(p); err != nil {
			return bad("peers: %.80q is no peer ID", p)
		}
	}
	if r.By.IsZero() {
		r.By = now.Add(defaultBy)
	}
	if !r.By.After(now) || r.By.After(now.Add(longestBy)) {
		return bad("by: %s is not within the year to come", r.By.Format(time.RFC3339))
	}
	return nil
}

// Order gives one. Errors: *BadRequest, ErrMany, or that it cannot be kept.
func (m *Manager) Order(r Request, user string) (Order, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.order(r, user, "", time.Now().UTC())
}

// order gives one. The lock is held.
func (m *Manager) order(r Request, user, schedule string, now time.Time) (Order, error) {
	if err := r.check(now); err != nil {
		return Order{}, err
	}
	open := 0
	for _, x := range m.orders {
		if x.Open {
			open++
		}
	}
	if open >= maxOpen {
		return Order{}, ErrMany
	}
	x := &order{Order: Order{ID: strconv.Itoa(m.next), User: user, Schedule: schedule, State: Running, Open: true, Platforms: r.Platforms, Target: r.Target,
		Rate: r.Rate, Created: now, By: r.By.UTC(), Hosts: []Host{}}}
	for _, image := range r.Images {
		x.Images = append(x.Images, Image{Image: image})
	}
	m.next++
	m.orders = append(m.orders, x)
	m.forget()
	if err := m.save(); err != nil {
		m.orders = slices.DeleteFunc(m.orders, func(y *order) bool { return y == x })
		return Order{}, err
	}
	m.tell()
	m.o.Log.Info("order given", zap.String("order", x.ID), zap.String("user", user), zap.Int("images", len(x.Images)), zap.Time("by", x.By))
	return x.look(true), nil
}

// look is a copy. The lock is held.
func (x *order) look(hosts bool) Order {
	v := x.Order
	v.count()
	v.Images = slices.Clone(v.Images)
	v.Hosts = slices.Clone(v.Hosts)
	if !hosts {
		v.Hosts = []Host{}
	}
	return v
}

// Orders are those that are open, and those that ended lately, the latest first,
// without their hosts.
func (m *Manager) Orders() []Order {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []Order{}
	for _, x := range slices.Backward(m.orders) {
		list = append(list, x.look(false))
	}
	return list
}

// Get returns an order; with wait, once it is not running, at the latest after so
// long. Errors: ErrNotFound.
func (m *Manager) Get(ctx context.Context, id string, wait time.Duration) (Order, error) {
	late := time.NewTimer(wait)
	defer late.Stop()
	for {
		m.mu.Lock()
		x, changed := m.find(id), m.changed
		var v Order
		if x != nil {
			v = x.look(true)
		}
		m.mu.Unlock()
		if x == nil {
			return Order{}, ErrNotFound
		}
		if v.State != Running || wait <= 0 {
			return v, nil
		}
		select {
		case <-changed:
		case <-late.C:
			wait = 0
		case <-ctx.Done():
			wait = 0
		}
	}
}

// Cancel takes an order back: hosts stop, and what they have stays. Errors:
// ErrNotFound.
func (m *Manager) Cancel(id string) (Order, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.find(id)
	if x == nil {
		return Order{}, ErrNotFound
	}
	m.cancel(x)
	return x.look(true), m.save()
}

func (m *Manager) cancel(x *order) {
	if x.Open {
		m.end(x, Canceled, "")
		x.Open = false
		x.told = nil // they are told of the end
	}
}

func (m *Manager) find(id string) *order {
	for _, x := range m.orders {
		if x.ID == id {
			return x
		}
	}
	return nil
}

// end notes a state that is not running. The lock is held.
func (m *Manager) end(x *order, state, why string) {
	if x.State == state {
		return
	}
	x.State, x.Error, x.Ended = state, why, time.Now().UTC()
	x.count()
	m.m.ended.WithLabelValues(state).Inc()
	m.o.Log.Info("order ended", zap.String("order", x.ID), zap.String("state", state), zap.Int("hosts", x.HostsTotal), zap.Int("done", x.HostsDone),
		zap.Int("failed", x.HostsFailed), zap.String("reason", why))
	m.tell()
}

// tell wakes whoever waits for a change. The lock is held.
func (m *Manager) tell() {
	m.dirty = true
	close(m.changed)
	m.changed = make(chan struct{})
}

// forget drops the oldest of those that are not open. The lock is held.
func (m *Manager) forget() {
	closed := 0
	for _, x := range m.orders {
		if !x.Open {
			closed++
		}
	}
	m.orders = slices.DeleteFunc(m.orders, func(x *order) bool {
		if x.Open || closed <= maxEnded {
			return false
		}
		closed--
		return true
	})
}
