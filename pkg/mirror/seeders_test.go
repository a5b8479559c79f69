package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Peer IDs of seeders that nobody meets.
const (
	idA = "12D3KooWQqew4RpCw9TWeTdkhK1tTpV4yyBA4DE9kK9kVktijCjk"
	idB = "12D3KooWPHmVY482fugPFBamXpP4RzbziyYkqb556rU5jqboNLe4"
)

// fakeSeeder serves an introduction.
type fakeSeeder struct {
	*httptest.Server
	mu     sync.Mutex
	in     daemon.Introduction
	status int
	body   string
	asked  int
}

func newFakeSeeder(t *testing.T, in daemon.Introduction) *fakeSeeder {
	f := &fakeSeeder{in: in}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asked++
		switch {
		case f.status != 0:
			http.Error(w, f.body, f.status)
		case f.body != "":
			fmt.Fprint(w, f.body)
		default:
			_ = json.NewEncoder(w).Encode(f.in)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeSeeder) set(change func(*fakeSeeder)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func intro(id string, upstreams ...string) daemon.Introduction {
	in := daemon.Introduction{PeerID: id, Addrs: []string{"/ip4/10.0.0.1/tcp/4001"}, Upstreams: []daemon.IntroduceUpstream{}}
	for _, u := range upstreams {
		in.Upstreams = append(in.Upstreams, daemon.IntroduceUpstream{Name: u, URL: "http://" + u})
	}
	return in
}

// fakeNetwork remembers whom it was told to connect to.
type fakeNetwork struct {
	mu    sync.Mutex
	boot  []peer.AddrInfo
	since map[peer.ID]time.Time
}

func (n *fakeNetwork) AddBootstrap(ais ...peer.AddrInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.boot = append(n.boot, ais...)
}

func (n *fakeNetwork) Neighbour(p peer.ID) (p2p.Neighbour, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t, ok := n.since[p]
	return p2p.Neighbour{ID: p, Since: t}, ok
}

// stand is seeders without a daemon.
type stand struct {
	*seeders
	net *fakeNetwork
	log *observer.ObservedLogs
}

func newStand(t *testing.T, c config.Peerd) *stand {
	t.Helper()
	if c.Data == "" {
		c.Data = t.TempDir()
	}
	core, logs := observer.New(zapcore.DebugLevel)
	st := &stand{seeders: newSeeders(c), net: &fakeNetwork{since: make(map[peer.ID]time.Time)}, log: logs}
	direct, err := upstream.New(nil, upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.Close)
	resolver, err := registry.NewResolver(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.use(parts{log: zap.New(core), net: st.net, direct: direct, resolver: resolver}, "test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.close)
	return st
}

func (s *stand) ask(t *testing.T) { s.refresh(t.Context(), s.list) }

func (s *stand) names() string { return strings.Join(s.resolver.Names(), " ") }

func (s *stand) warnings() string {
	var st status.Status
	s.status(&st)
	var codes []string
	for _, w := range st.Warnings {
		codes = append(codes, w.Code)
	}
	return strings.Join(codes, " ")
}

// What a seeder says is put to use, kept, and used by the next process.
func TestIntroductionIsKept(t *testing.T) {
	f := newFakeSeeder(t, intro(idA, "docker.io", "up.test"))
	c := config.Peerd{Seeders: []string{f.URL + "/"}}
	c.Data = t.TempDir()
	s := newStand(t, c)
	if s.known() || s.names() != "" {
		t.Error("something is known before it was asked")
	}
	if err := s.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, _ := peer.Decode(idA)
	if !s.known() || !s.trusts(id) || s.names() != "docker.io up.test" || s.resolver.Default() != "docker.io" || len(s.net.boot) != 1 {
		t.Errorf("names %q, default %q, bootstrap %v", s.names(), s.resolver.Default(), s.net.boot)
	}
	if src := s.sources("up.test"); len(src) != 1 || len(s.sources("other")) != 0 {
		t.Errorf("sources: %v", src)
	}
	f.Close()
	again := newStand(t, c)
	if err := again.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !again.known() || !again.trusts(id) || again.names() != "docker.io up.test" || len(again.net.boot) != 1 || len(again.sources("up.test")) != 1 {
		t.Errorf("after a restart: names %q, bootstrap %v", again.names(), again.net.boot)
	}
	if w := again.warnings(); w != "seeder-unreachable" {
		t.Errorf("warnings %q", w)
	}
}

// What may be wrong with a seeder: an error that says what and what to do, at
// the first start; later, a warning.
func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name    string
		peerd   config.Peerd
		psk     string
		answer  func(*fakeSeeder)
		refused bool
		says    string
		fresh   string // error of the first start, if it is one
	}{
		{name: "fine", answer: func(*fakeSeeder) {}},
		{name: "web server", answer: func(f *fakeSeeder) { f.body = "<html>" }, refused: true, says: "is --seeder the URL of a seeder's registry API?"},
		{name: "JSON of something else", answer: func(f *fakeSeeder) { f.body = "{}" }, refused: true, says: "something else than an introduction"},
		{name: "404", answer: func(f *fakeSeeder) { f.status = 404 }, refused: true, says: "404 Not Found"},
		{name: "bad gateway", answer: func(f *fakeSeeder) { f.status = 502 }, says: "502"},
		{name: "bad peer ID", answer: func(f *fakeSeeder) { f.in.PeerID = "x" }, says: "not usable"},
		{name: "bad address", answer: func(f *fakeSeeder) { f.in.Addrs = []string{"x"} }, says: "not usable"},
		{name: "another key", psk: "1111", answer: func(f *fakeSeeder) { f.in.SwarmKey = "2222" }, refused: true, says: "wrong swarm key: the seeder at"},
		{name: "it has a key", answer: func(f *fakeSeeder) { f.in.SwarmKey = "2222" }, refused: true, says: "name it with --swarm-key"},
		{name: "it has none", psk: "1111", answer: func(*fakeSeeder) {}, refused: true, says: "or both with --open-swarm"},
		{name: "another than --seeder-id", peerd: config.Peerd{SeederID: idB}, answer: func(*fakeSeeder) {}, refused: true, says: "not " + idB + " as --seeder-id says"},
		{name: "the one of --seeder-id", peerd: config.Peerd{SeederID: idA}, answer: func(*fakeSeeder) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeSeeder(t, intro(idA, "up.test"))
			f.set(test.answer)
			c := test.peerd
			c.Seeders = []string{f.URL}
			s := newStand(t, c)
			s.psk = test.psk
			err := s.begin(t.Context())
			if (err != nil) != test.refused || test.refused && !strings.Contains(err.Error(), test.says) {
				t.Errorf("first start: %v", err)
			}
			k := s.list[0]
			if k.refused != test.refused || test.says != "" && (k.err == nil || !strings.Contains(k.err.Error(), test.says)) {
				t.Errorf("refused %v, %v", k.refused, k.err)
			}
			if test.says == "" && (k.err != nil || len(s.sources("up.test")) != 1) {
				t.Errorf("not used: %v", k.err)
			}
			if test.says != "" && (s.log.FilterMessageSnippet("cannot be used").Len() != 1 || s.warnings() == "") {
				t.Errorf("log %v, warnings %q", s.log.All(), s.warnings())
			}
			s.ask(t)
			if n := s.log.FilterMessageSnippet("cannot be used").Len(); n > 1 {
				t.Errorf("the same error was logged %d times", n)
			}
		})
	}
}

// The first peer ID learned is the one that is believed, until the operator
// says otherwise.
func TestIdentityIsPinned(t *testing.T) {
	f := newFakeSeeder(t, intro(idA, "up.test"))
	c := config.Peerd{Seeders: []string{f.URL}}
	c.Data = t.TempDir()
	s := newStand(t, c)
	s.ask(t)
	f.set(func(f *fakeSeeder) { f.in = intro(idB, "up.test", "evil.test") })
	a, _ := peer.Decode(idA)
	other, _ := peer.Decode(idB)
	for _, when := range []string{"running", "restarted"} {
		if when == "restarted" {
			s = newStand(t, c)
			if err := s.begin(t.Context()); err != nil {
				t.Errorf("a daemon that knows its seeder did not start: %v", err)
			}
		}
		s.ask(t)
		if !s.trusts(a) || s.trusts(other) || s.names() != "up.test" || len(s.sources("up.test")) != 0 {
			t.Errorf("%s: believes %v %v, names %q", when, s.trusts(a), s.trusts(other), s.names())
		}
		if k := s.list[0]; s.warnings() != "seeder-refused" || !strings.Contains(k.err.Error(), "was "+idA+" so far") || !strings.Contains(k.err.Error(), "seeder.json") {
			t.Errorf("%s: %q, %v", when, s.warnings(), k.err)
		}
	}
	f.set(func(f *fakeSeeder) { f.in = intro(idA, "up.test") })
	s.ask(t)
	if s.warnings() != "" || len(s.sources("up.test")) != 1 {
		t.Errorf("the right one is back: %q", s.warnings())
	}
	f.set(func(f *fakeSeeder) { f.in = intro(idB, "up.test") })
	c.SeederID = idB
	s = newStand(t, c)
	if s.known() {
		t.Error("the introduction of another than --seeder-id is used")
	}
	s.ask(t)
	if s.warnings() != "" || s.trusts(a) || !s.trusts(other) {
		t.Errorf("--seeder-id: %q", s.warnings())
	}
}

// A file that cannot be read costs nothing while the seeder answers.
func TestDamagedMemory(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "cut": `{"http`, "another type": `[]`, "null": `null`, "no introduction": `{"URL":{}}`,
		"null introduction": `{"URL":{"introduction":null}}`, "bad peer ID": `{"URL":{"introduction":{"peerId":"x"}}}`, "large": strings.Repeat(" ", maxMemory+1)} {
		t.Run(name, func(t *testing.T) {
			f := newFakeSeeder(t, intro(idA, "up.test"))
			c := config.Peerd{Seeders: []string{f.URL}}
			c.Data = t.TempDir()
			file := filepath.Join(c.Data, "seeder.json")
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "URL", f.URL)), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newStand(t, c)
			if s.known() {
				t.Error("something is known")
			}
			harmless := name == "null" || strings.Contains(name, "introduction")
			if n := s.log.FilterMessageSnippet("cannot be read").Len(); n != 1 && !harmless {
				t.Errorf("%d log lines", n)
			}
			s.ask(t)
			if again := newStand(t, c); !again.known() {
				t.Error("not mended")
			}
		})
	}
}

// Upstreams: those of --upstream first, then those of the seeders in their
// order; names that are none are left out.
func TestUpstreamsAreMerged(t *testing.T) {
	a := newFakeSeeder(t, intro(idA, "b.test", "Index.docker.io", "no good/name"))
	b := newFakeSeeder(t, intro(idB, "a.test", "b.test", "c.test"))
	a.in.Default = "b.test"
	c := config.Peerd{Seeders: []string{a.URL, b.URL}}
	c.Upstreams = []config.Upstream{{Name: "a.test", URL: "http://mine"}}
	s := newStand(t, c)
	if s.names() != "a.test" || s.resolver.Default() != "a.test" {
		t.Errorf("before: %q, default %q", s.names(), s.resolver.Default())
	}
	s.ask(t)
	if s.names() != "a.test b.test c.test docker.io" || s.resolver.Default() != "b.test" {
		t.Errorf("names %q, default %q", s.names(), s.resolver.Default())
	}
	for name, want := range map[string]string{"a.test": "http://mine", "b.test": "http://b.test"} {
		if got, _ := s.direct.URL(name); got != want {
			t.Errorf("%s is at %s, want %s", name, got, want)
		}
	}
	if n := [...]int{len(s.sources("a.test")), len(s.sources("b.test")), len(s.sources("docker.io"))}; n != [...]int{1, 2, 1} {
		t.Errorf("sources: %v", n)
	}
	if src := s.sources("b.test"); src[0].Name != "seeder "+a.URL || !src[0].Relay || src[0].Ping == nil {
		t.Errorf("first source: %+v", src[0])
	}
	a.set(func(f *fakeSeeder) { f.in = intro(idA, "d.test") })
	s.ask(t)
	if s.names() != "a.test b.test c.test d.test" {
		t.Errorf("after a change: %q", s.names())
	}
}

// --default-upstream may name what the seeder is still to tell.
func TestDefaultUpstream(t *testing.T) {
	f := newFakeSeeder(t, intro(idA, "a.test", "b.test"))
	for chosen, want := range map[string]string{"": "", "b.test": "b.test", "nope": ""} {
		c := config.Peerd{Seeders: []string{f.URL}}
		c.DefaultUpstream = chosen
		s := newStand(t, c)
		if s.log.FilterMessageSnippet("default upstream").Len() != 0 {
			t.Errorf("%q: complains before it knows", chosen)
		}
		s.ask(t)
		if got := s.resolver.Default(); got != want {
			t.Errorf("%q: default %q, want %q", chosen, got, want)
		}
		if n := s.log.FilterMessageSnippet("default upstream is not").Len(); n != map[bool]int{true: 1}[chosen == "nope"] {
			t.Errorf("%q: %d complaints", chosen, n)
		}
	}
}

// When a seeder is asked again.
func TestWhenDue(t *testing.T) {
	f := newFakeSeeder(t, intro(idA, "up.test"))
	s := newStand(t, config.Peerd{Seeders: []string{f.URL}})
	id, _ := peer.Decode(idA)
	due := func(in time.Duration) bool { return slices.Contains(s.dueAt(time.Now().Add(in)), s.list[0]) }
	if !due(0) {
		t.Error("never asked, and not due")
	}
	s.ask(t)
	if due(0) || due(3*time.Minute) || !due(refreshEvery) {
		t.Error("answered: not asked before minutes have passed")
	}
	s.net.since[id] = time.Now().Add(time.Second)
	if due(500*time.Millisecond) || !due(2*time.Second) {
		t.Error("came into the swarm: asked, but not at once")
	}
	s.ask(t)
	s.net.since[id] = time.Now().Add(-time.Minute)
	if due(2 * time.Second) {
		t.Error("was there when it was asked")
	}
	delete(s.net.since, id)
	if !due(2 * time.Second) {
		t.Error("left the swarm: asked")
	}
	f.Close()
	for i, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		s.ask(t)
		if due(pause*time.Second-500*time.Millisecond) || !due(pause*time.Second) {
			t.Errorf("failure %d: not asked after %d s", i, pause)
		}
	}
	if s.warnings() != "seeder-unreachable" {
		t.Errorf("warnings %q", s.warnings())
	}
}

// A seeder that answers HTTP but cannot be connected is a warning of its own.
func TestNotConnectedWarning(t *testing.T) {
	f := newFakeSeeder(t, intro(idA, "up.test"))
	s := newStand(t, config.Peerd{Seeders: []string{f.URL}})
	s.ask(t)
	s.dueAt(time.Now())
	if w := s.warnings(); w != "" {
		t.Errorf("at once: %q", w)
	}
	s.list[0].upSince = time.Now().Add(-missedFor - time.Second)
	if w := s.warnings(); w != "seeder-not-connected" {
		t.Errorf("after a while: %q", w)
	}
}

// A herd that waits for its seeder must get it soon after it comes.
func TestKeepFresh(t *testing.T) {
	f := newFakeSeeder(t, intro(idA, "up.test"))
	f.set(func(f *fakeSeeder) { f.status = 503 })
	s := newStand(t, config.Peerd{Seeders: []string{f.URL}})
	if err := s.begin(t.Context()); err != nil {
		t.Fatalf("it may still come: %v", err)
	}
	f.set(func(f *fakeSeeder) { f.status = 0 })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.keepFresh(ctx)
	}()
	end := time.After(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.known() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("not asked again")
		}
	}
	cancel()
	<-done
}
