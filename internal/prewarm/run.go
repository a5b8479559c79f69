package prewarm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Run has orders done until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		m.round(ctx)
		select {
		case <-ctx.Done():
			m.mu.Lock()
			_ = m.save() // it was logged
			m.mu.Unlock()
			return
		case <-t.C:
		case <-changed:
		}
	}
}

// round looks once at everything.
func (m *Manager) round(ctx context.Context) {
	now := time.Now().UTC()
	m.runSchedules(now)
	for _, x := range m.unresolved(now) {
		m.resolve(ctx, x)
	}
	there := slices.DeleteFunc(m.o.Net.Neighbours(), func(nb p2p.Neighbour) bool { return nb.Seeder })
	m.mu.Lock()
	for _, x := range m.orders {
		if x.Open && x.ready() && x.enlist(there, now) {
			m.tell()
		}
	}
	asks := m.asks(there, now)
	m.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, a := range asks {
		g.Go(func() error { m.ask(ctx, a); return nil })
	}
	_ = g.Wait() // none fails
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.orders {
		m.judge(x, now)
	}
	if m.dirty && now.Sub(m.saved) >= saveEvery {
		m.saved = now
		_ = m.save() // it was logged
	}
}

// ready tells whether hosts can be told: every image is resolved, or failed.
func (x *order) ready() bool {
	ok := false
	for _, im := range x.Images {
		if im.Digest == "" && im.Error == "" || im.Error != "" && x.tries < tries && x.tries > 0 {
			return false
		}
		ok = ok || im.Digest != ""
	}
	return ok
}

// unresolved are the orders with images whose digest is to be asked for now.
func (m *Manager) unresolved(now time.Time) []*order {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*order
	for _, x := range m.orders {
		if x.Open && !x.ready() && !x.retry.After(now) && x.tries < tries && x.State == Running {
			list = append(list, x)
		}
	}
	return list
}

// resolve asks what the images of an order mean: once, but while upstreams fail.
func (m *Manager) resolve(ctx context.Context, x *order) {
	m.mu.Lock()
	images := slices.Clone(x.Images)
	m.mu.Unlock()
	again := false
	for i := range images {
		im := &images[i]
		if im.Digest != "" {
			continue
		}
		r, err := m.o.Resolve(ctx, im.Image)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			var final *registry.Error
			again = again || !errors.As(err, &final) || final.Status >= 500 || final.Status == 429
			im.Error = err.Error()
			continue
		}
		*im = Image{Image: im.Image, Repository: r.Repository, Tag: r.Tag, Digest: digest.Digest(r.Digest), Resolved: time.Now().UTC()}
		m.o.Log.Info("image resolved", zap.String("order", x.ID), zap.String("image", im.Image), zap.String("digest", r.Digest))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x.Images = images
	x.tries++
	x.retry = time.Now().Add(tryAgain)
	if !again {
		x.tries = tries
	}
	m.tell()
}

// ask is one exchange with a host.
type ask struct {
	to     peer.ID
	orders []*order
	sent   []p2p.Order
}

// asks are the hosts to ask now. What is large is sent alone. The lock is held.
func (m *Manager) asks(there []p2p.Neighbour, now time.Time) []ask {
	here := make(map[string]p2p.Neighbour, len(there))
	for _, nb := range there {
		here[nb.ID.String()] = nb
	}
	pace := max(every, time.Duration(len(there))*time.Second/perSecond)
	byHost := map[string]*ask{}
	var list []*ask
	for _, x := range m.orders {
		if x.asked == nil {
			x.asked = map[string]time.Time{}
		}
		if x.told == nil {
			x.told = map[string]bool{}
		}
		for i := range x.Hosts {
			h := &x.Hosts[i]
			nb, ok := here[h.Peer]
			if !ok {
				if h.State == Running || h.State == Queued {
					h.State = Waiting
					m.tell()
				}
				delete(x.told, h.Peer)
				continue
			}
			if !x.due(h, now, pace) {
				continue
			}
			s := p2p.Order{ID: x.wire(), Cancel: !x.Open}
			if x.Open && !x.told[h.Peer] {
				s = x.whole(now)
			}
			x.asked[h.Peer] = now
			a := byHost[h.Peer]
			if a == nil || len(s.Images) > 0 {
				a = &ask{to: nb.ID}
				list = append(list, a)
				if len(s.Images) == 0 {
					byHost[h.Peer] = a
				}
			}
			a.orders, a.sent = append(a.orders, x), append(a.sent, s)
		}
	}
	out := make([]ask, len(list))
	for i, a := range list {
		out[i] = *a
	}
	return out
}

// due tells whether a host is to be asked, or told of a cancellation, now.
func (x *order) due(h *Host, now time.Time, pace time.Duration) bool {
	if !x.Open {
		return x.State == Canceled && !x.told[h.Peer] && !x.asked[h.Peer].IsZero() && now.Sub(x.Ended) < time.Minute
	}
	if !x.ready() {
		return false
	}
	wait := pace
	switch h.State {
	case Done, Failed:
		wait = max(pace, slowly)
	case Refused:
		wait = unableWait
	}
	return !x.told[h.Peer] && h.State != Refused || now.Sub(x.asked[h.Peer]) >= wait-every/10
}

// wire is the order's name for hosts: a seeder that lost its file begins to count
// again.
func (x *order) wire() string { return fmt.Sprintf("%s-%x", x.ID, x.Created.UnixMilli()) }

func (x *order) whole(now time.Time) p2p.Order {
	s := p2p.Order{ID: x.wire(), Platforms: x.Platforms, Rate: x.Rate, Left: x.By.Sub(now)}
	for _, im := range x.Images {
		if im.Digest != "" {
			s.Images = append(s.Images, p2p.OrderedImage{Repository: im.Repository, Tag: im.Tag, Digest: im.Digest, Age: now.Sub(im.Resolved)})
		}
	}
	return s
}

// ask asks one host.
func (m *Manager) ask(ctx context.Context, a ask) {
	states, err := m.o.Net.Prewarm(ctx, a.to, a.sent)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, x := range a.orders {
		h := x.host(a.to.String())
		if h == nil {
			continue
		}
		switch {
		case a.sent[i].Cancel:
			x.told[h.Peer] = err == nil
			continue
		case errors.Is(err, p2p.ErrNoOrders):
			h.State, h.Error = Refused, "its peerd takes no orders: upgrade it"
		case err != nil:
			delete(x.told, h.Peer)
			m.o.Log.Debug("a host was not told", zap.String("order", x.ID), zap.Stringer("peer", a.to), zap.Error(err))
			continue
		default:
			x.heardOf(h, states[i])
		}
		m.tell()
	}
}

var stateOf = map[p2p.Phase]string{p2p.OrderQueued: Queued, p2p.OrderRunning: Running, p2p.OrderDone: Done, p2p.OrderFailed: Failed, p2p.OrderRefused: Refused}

func (x *order) heardOf(h *Host, st p2p.OrderState) {
	if st.Phase == p2p.OrderUnknown {
		delete(x.told, h.Peer)
		h.State = Waiting
		return
	}
	x.told[h.Peer] = st.Phase != p2p.OrderRefused
	h.State, h.Images, h.ImagesDone, h.Bytes, h.BytesTotal, h.Error = stateOf[st.Phase], st.Images, st.ImagesDone, st.Bytes, st.BytesTotal, st.Error
	h.Seen = time.Now().UTC()
}

// judge settles an order's state. The lock is held.
func (m *Manager) judge(x *order, now time.Time) {
	if !x.Open {
		return
	}
	unresolved := 0
	for _, im := range x.Images {
		if im.Digest == "" {
			unresolved++
		}
	}
	x.count()
	enough := x.HostsTotal > 0 && x.HostsTotal >= max(1, x.Target.Hosts)
	late := !x.By.After(now)
	switch {
	case unresolved == len(x.Images) && x.tries >= tries:
		m.end(x, Failed, fmt.Sprintf("none of %d images could be resolved: %s", len(x.Images), x.Images[0].Error))
		x.Open = false
	case enough && x.ready() && x.HostsDone == x.HostsTotal && unresolved == 0:
		m.end(x, Done, "")
	case enough && x.ready() && x.HostsDone+x.HostsFailed == x.HostsTotal && (!late || x.State == Failed):
		m.end(x, Failed, failure(x, unresolved))
	case late:
		m.end(x, Expired, fmt.Sprintf("%d of %d hosts had all images at the deadline", x.HostsDone, max(x.HostsTotal, x.Target.Hosts)))
	case x.State != Running:
		x.State, x.Error, x.Ended = Running, "", time.Time{}
		m.tell()
	}
	if late && x.Open {
		x.Open = false
		m.dirty = true
	}
}

func failure(x *order, unresolved int) string {
	if unresolved > 0 {
		return fmt.Sprintf("%d of %d images could not be resolved; %d of %d hosts have the others", unresolved, len(x.Images), x.HostsDone, x.HostsTotal)
	}
	return fmt.Sprintf("%d of %d hosts failed or refused", x.HostsFailed, x.HostsTotal)
}
