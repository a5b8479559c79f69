package prewarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const theDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// swarm is hosts that do at once what they are told, unless phases says otherwise.
type swarm struct {
	mu     sync.Mutex
	up     []p2p.Neighbour
	has    map[peer.ID]map[string]int // order: images
	wholes int                        // orders that were sent whole
	phases map[peer.ID]p2p.Phase
}

func hostID(t *testing.T, n int) peer.ID {
	t.Helper()
	seed := strings.NewReader(strings.Repeat(string(rune('a'+n)), 64))
	_, pub, err := crypto.GenerateEd25519Key(seed)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newSwarm has n hosts, by turns in zones a and b, and a second seeder.
func newSwarm(t *testing.T, n int) *swarm {
	s := &swarm{has: map[peer.ID]map[string]int{}, phases: map[peer.ID]p2p.Phase{}}
	for i := range n {
		s.up = append(s.up, p2p.Neighbour{ID: hostID(t, i), Zone: string(rune('a' + i%2)), PiecesAddr: fmt.Sprintf("10.0.0.%d:4002", i)})
	}
	s.up = append(s.up, p2p.Neighbour{ID: hostID(t, 20), Zone: "a", Seeder: true})
	return s
}

func (s *swarm) Neighbours() []p2p.Neighbour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]p2p.Neighbour(nil), s.up...)
}

func (s *swarm) Prewarm(_ context.Context, to peer.ID, orders []p2p.Order) ([]p2p.OrderState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has[to] == nil {
		s.has[to] = map[string]int{}
	}
	var out []p2p.OrderState
	for _, o := range orders {
		if len(o.Images) > 0 {
			s.wholes++
			s.has[to][o.ID] = len(o.Images)
		}
		if o.Cancel {
			delete(s.has[to], o.ID)
		}
		n := s.has[to][o.ID]
		st := p2p.OrderState{ID: o.ID}
		if n > 0 {
			st = p2p.OrderState{ID: o.ID, Phase: p2p.OrderDone, Images: n, ImagesDone: n, Bytes: 100, BytesTotal: 100}
			if p, ok := s.phases[to]; ok {
				st.Phase, st.ImagesDone = p, 0
			}
		}
		out = append(out, st)
	}
	return out, nil
}

func (s *swarm) set(i int, p p2p.Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phases[s.up[i].ID] = p
}

// resolver knows every image but "none"; "flaky" at the third question.
func resolver() func(context.Context, string) (Resolved, error) {
	asked := 0
	return func(_ context.Context, image string) (Resolved, error) {
		switch image {
		case "none":
			return Resolved{}, &registry.Error{Status: 404, Message: "there is no such image"}
		case "flaky":
			if asked++; asked < 3 {
				return Resolved{}, errors.New("the upstream fails")
			}
		}
		return Resolved{Repository: "docker.io/library/" + image, Tag: "latest", Digest: theDigest}, nil
	}
}

// rig runs a manager in a bubble; f sees time pass by time.Sleep of its own.
func rig(t *testing.T, hosts int, f func(t *testing.T, m *Manager, s *swarm)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prewarm.json")
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, hosts)
		m, stop := start(t, file, s)
		defer stop()
		f(t, m, s)
	})
}

func start(t *testing.T, file string, s *swarm) (*Manager, func()) {
	t.Helper()
	m, err := Open(Options{File: file, Net: s, Resolve: resolver()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	return m, func() { stop(); wg.Wait() }
}

func pass(d time.Duration) { <-time.After(d); synctest.Wait() }

func give(t *testing.T, m *Manager, r Request) Order {
	t.Helper()
	if r.Images == nil {
		r.Images = []string{"app"}
	}
	o, err := m.Order(r, "alice")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func get(t *testing.T, m *Manager, id string) Order {
	t.Helper()
	o, err := m.Get(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAllAndLateComers(t *testing.T) {
	rig(t, 4, func(t *testing.T, m *Manager, s *swarm) {
		late := s.up[3]
		s.up = s.up[:3]
		o := give(t, m, Request{Target: Target{All: true}, By: time.Now().Add(time.Hour)})
		if o, err := m.Get(t.Context(), o.ID, time.Minute); err != nil || o.State != Done || o.HostsDone != 3 || o.Bytes != 300 || !o.Open {
			t.Fatalf("%+v, %v", o, err)
		}
		s.mu.Lock()
		s.up = append(s.up, late)
		s.mu.Unlock()
		pass(5 * time.Second)
		if o := get(t, m, o.ID); o.State != Done || o.HostsDone != 4 {
			t.Errorf("a host that came late: %+v", o)
		}
		pass(time.Hour)
		if o := get(t, m, o.ID); o.State != Done || o.Open {
			t.Errorf("after the deadline: %+v", o)
		}
		if s.wholes != 4 {
			t.Errorf("orders were sent whole %d times, not once to each host", s.wholes)
		}
	})
}

func TestChoice(t *testing.T) {
	rig(t, 8, func(t *testing.T, m *Manager, s *swarm) {
		o := give(t, m, Request{Target: Target{Hosts: 4}})
		again := give(t, m, Request{Target: Target{Hosts: 4}})
		zone := give(t, m, Request{Target: Target{Zones: []string{"b"}}})
		one := give(t, m, Request{Target: Target{Peers: []string{s.up[2].ID.String()}}})
		pass(5 * time.Second)
		o, again, zone, one = get(t, m, o.ID), get(t, m, again.ID), get(t, m, zone.ID), get(t, m, one.ID)
		zones := map[string]int{}
		for i, h := range o.Hosts {
			zones[h.Zone]++
			if again.Hosts[i].Peer != h.Peer {
				t.Error("the same order chose another host")
			}
		}
		if o.State != Done || zones["a"] != 2 || zones["b"] != 2 {
			t.Errorf("%v %+v", zones, o)
		}
		if zone.HostsDone != 4 || zone.Hosts[0].Zone != "b" || one.HostsDone != 1 || one.Hosts[0].Address != "10.0.0.2" {
			t.Errorf("%+v\n%+v", zone, one)
		}
	})
}

// A host that refuses is replaced, and one that is away for long.
func TestReplaced(t *testing.T) {
	rig(t, 3, func(t *testing.T, m *Manager, s *swarm) {
		first := give(t, m, Request{Target: Target{Hosts: 1}})
		pass(2 * time.Second)
		chosen := get(t, m, first.ID).Hosts[0].Peer
		for i := range 3 {
			if s.up[i].ID.String() == chosen {
				s.set(i, p2p.OrderRefused)
			}
		}
		o := give(t, m, Request{Target: Target{Hosts: 1}})
		pass(5 * time.Second)
		if o := get(t, m, o.ID); o.State != Done || o.Hosts[0].Peer == chosen {
			t.Errorf("%+v", o)
		}
	})
}

func TestEnds(t *testing.T) {
	rig(t, 2, func(t *testing.T, m *Manager, s *swarm) {
		s.set(0, p2p.OrderFailed)
		failed := give(t, m, Request{Target: Target{All: true}})
		pass(3 * time.Second)
		if o := get(t, m, failed.ID); o.State != Failed || o.HostsFailed != 1 || !o.Open {
			t.Errorf("%+v", o)
		}
		s.set(0, p2p.OrderDone) // it tried again
		pass(20 * time.Second)
		if o := get(t, m, failed.ID); o.State != Done {
			t.Errorf("%+v", o)
		}
		s.set(1, p2p.OrderRunning)
		expired := give(t, m, Request{Target: Target{All: true}, By: time.Now().Add(time.Minute)})
		pass(2 * time.Minute)
		if o := get(t, m, expired.ID); o.State != Expired || o.Open || !strings.HasPrefix(o.Error, "1 of 2 hosts") {
			t.Errorf("%+v", o)
		}
		canceled := give(t, m, Request{Target: Target{All: true}})
		pass(3 * time.Second)
		before := len(s.has[s.up[1].ID])
		if o, err := m.Cancel(canceled.ID); err != nil || o.State != Canceled {
			t.Errorf("%+v, %v", o, err)
		}
		pass(3 * time.Second)
		if n := len(s.has[s.up[1].ID]); n != before-1 {
			t.Errorf("the host still has %d orders of %d", n, before)
		}
		none := give(t, m, Request{Images: []string{"none"}, Target: Target{All: true}})
		flaky := give(t, m, Request{Images: []string{"flaky"}, Target: Target{Peers: []string{s.up[0].ID.String()}}})
		pass(time.Minute)
		if o := get(t, m, none.ID); o.State != Failed || o.Open || !strings.Contains(o.Error, "no such image") {
			t.Errorf("%+v", o)
		}
		if o := get(t, m, flaky.ID); o.State != Done || o.Images[0].Digest != theDigest {
			t.Errorf("an upstream that failed for a while: %+v", o)
		}
	})
}

func TestRequests(t *testing.T) {
	rig(t, 1, func(t *testing.T, m *Manager, _ *swarm) {
		for name, r := range map[string]Request{
			"no image":     {Target: Target{All: true}, Images: []string{}},
			"no host":      {},
			"two targets":  {Target: Target{All: true, Hosts: 2}},
			"a bad peer":   {Target: Target{Peers: []string{"x"}}},
			"a slow rate":  {Target: Target{All: true}, Rate: 5},
			"a past":       {Target: Target{All: true}, By: time.Now().Add(-time.Second)},
			"no platform":  {Target: Target{All: true}, Platforms: []string{"linux"}},
			"a minus host": {Target: Target{Hosts: -1}},
		} {
			if r.Images == nil {
				r.Images = []string{"app"}
			}
			if _, err := m.Order(r, ""); !errors.As(err, new(*BadRequest)) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := m.Get(t.Context(), "99", 0); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

// A seeder that starts again goes on with its orders; a host that has forgotten is
// told again.
func TestRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prewarm.json")
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, 2)
		s.set(0, p2p.OrderRunning)
		m, stop := start(t, file, s)
		o := give(t, m, Request{Target: Target{All: true}})
		pass(3 * time.Second)
		stop()
		s.mu.Lock()
		s.has = map[peer.ID]map[string]int{}
		delete(s.phases, s.up[0].ID)
		s.mu.Unlock()
		m, stop = start(t, file, s)
		defer stop()
		pass(15 * time.Second)
		if o := get(t, m, o.ID); o.State != Done || o.HostsDone != 2 || len(s.has[s.up[0].ID]) != 1 {
			t.Errorf("%+v", o)
		}
		if next := give(t, m, Request{Target: Target{All: true}}); next.ID == o.ID {
			t.Error("an ID was given twice")
		}
	})
}

func TestSchedule(t *testing.T) {
	rig(t, 2, func(t *testing.T, m *Manager, _ *swarm) {
		for name, s := range map[string]Schedule{
			"name":   {Name: "A b", Cron: "@daily"},
			"cron":   {Name: "x", Cron: "61 * * * *"},
			"within": {Name: "x", Cron: "@daily", Within: "soon"},
			"target": {Name: "x", Cron: "@daily", Target: Target{All: true, Hosts: 1}},
		} {
			s.Images = []string{"app"}
			if name != "target" {
				s.Target = Target{All: true}
			}
			if _, err := m.SetSchedule(s, "alice"); !errors.As(err, new(*BadRequest)) {
				t.Errorf("%s: %v", name, err)
			}
		}
		s, err := m.SetSchedule(Schedule{Name: "hourly", Cron: "@hourly", Images: []string{"app"}, Target: Target{All: true}, Within: "3h"}, "alice")
		if err != nil || time.Until(s.Next) <= 0 || time.Until(s.Next) > time.Hour {
			t.Fatalf("%+v, %v", s, err)
		}
		pass(2*time.Hour + time.Minute)
		orders := m.Orders()
		if len(orders) != 2 || orders[0].State != Done || orders[1].State != Canceled || orders[0].Schedule != "hourly" || m.Schedules()[0].LastOrder != orders[0].ID {
			t.Errorf("%+v %+v", orders, m.Schedules())
		}
		if _, err := m.RemoveSchedule("hourly"); err != nil || len(m.Schedules()) != 0 {
			t.Error(err)
		}
	})
}

// Harbor's driver for Dragonfly: a preheat, and looks at it until it has ended.
func TestHarbor(t *testing.T) {
	rig(t, 3, func(t *testing.T, m *Manager, _ *swarm) {
		h := Harbor(m, func(host string) string {
			if host == "harbor.test" {
				return host
			}
			return ""
		}, func(*http.Request) string { return "alice" })
		do := func(method, path, body string, code int) map[string]any {
			t.Helper()
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
			var v map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != code {
				t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
			return v
		}
		const preheat = `{"type":"preheat","args":{"type":"image","url":"https://%s/v2/library/app/manifests/%s","tag":"","filtered_query_params":"","headers":{"Authorization":"Bearer x"},"scope":"%s","concurrent_count":0,"timeout":0},"scheduler_cluster_ids":null}`
		v := do("POST", HarborJobs, fmt.Sprintf(preheat, "harbor.test", "v1", "all_peers"), 200)
		id := fmt.Sprint(v["id"])
		if v["state"] != "PENDING" || id == "0" || v["created_at"] == "" {
			t.Errorf("%v", v)
		}
		pass(5 * time.Second)
		v = do("GET", HarborJobs+"/"+id, "", 200)
		text, _ := json.Marshal(v)
		if v["state"] != "SUCCESS" || strings.Count(string(text), `"hostname"`) != 3 {
			t.Errorf("%s", text)
		}
		if o := get(t, m, id); o.Images[0].Image != "harbor.test/library/app:v1" || o.User != "alice" {
			t.Errorf("%+v", o)
		}
		one := do("POST", HarborJobs, fmt.Sprintf(preheat, "harbor.test", theDigest, "single_peer"), 200)
		pass(5 * time.Second)
		if o := get(t, m, fmt.Sprint(one["id"])); o.HostsTotal != 1 || o.Images[0].Image != "harbor.test/library/app@"+theDigest {
			t.Errorf("%+v", o)
		}
		for _, bad := range []string{"{", `{"type":"file"}`, fmt.Sprintf(preheat, "other.test", "v1", ""), fmt.Sprintf(preheat, "harbor.test", "v1", "some"), `{"type":"preheat","args":{"type":"image","url":"https://harbor.test/x"}}`} {
			if v := do("POST", HarborJobs, bad, 400); v["message"] == "" {
				t.Errorf("%s: %v", bad, v)
			}
		}
		do("GET", HarborJobs+"/77", "", 404)
	})
}
