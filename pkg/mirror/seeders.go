package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// seeders is what this peerd knows of its seeders: whose signatures it
// believes, where they are, which upstreams they stand for. It is kept in
// DATA/seeder.json for the day no seeder answers.
type seeders struct {
	c       config.Peerd
	file    string
	loadErr error     // why file could not be read
	list    []*seeder // as configured; never changes

	parts               // set by use
	client *http.Client // to ask seeders who they are; set by use

	mu      sync.Mutex                  // guards what follows, and what changes of each seeder
	private map[string]string           // upstream: whom its private content is given to
	local   map[string]*upstream.Client // upstream that is a seeder's own repositories: that seeder
}

// parts of the daemon that seeders works with.
type parts struct {
	token    func() (string, error) // shows a seeder that we have the swarm key; nil in an open swarm
	log      *zap.Logger
	net      network
	psk      string           // fingerprint of the swarm key, "" in an open swarm
	direct   *upstream.Client // the upstreams themselves
	resolver *registry.Resolver
}

// seeder is one of them.
type seeder struct {
	url    string
	client *upstream.Client // the upstreams as seen through it
	source *metadata.Source

	in      *daemon.Introduction // what it said last, maybe to an earlier process
	err     error                // of the last attempt to ask
	refused bool                 // err is a reason not to use it at all
	said    string               // the error that was logged last
	asked   time.Time            // when it was asked last
	due     time.Time            // when it is to be asked again
	pause   time.Duration        // until then, after a failure
	up      bool                 // was a neighbour when last looked
	upSince time.Time            // or, where it is none, since when it is missed
}

// network is what seeders asks of the node (*p2p.Node).
type network interface {
	AddBootstrap(...peer.AddrInfo)
	Neighbour(peer.ID) (p2p.Neighbour, bool)
}

// newSeeders loads what an earlier process learned: the store asks whose
// signatures count before anything else is there.
func newSeeders(c config.Peerd) *seeders {
	s := &seeders{c: c, file: filepath.Join(c.Data, "seeder.json")}
	for _, u := range c.Seeders {
		s.list = append(s.list, &seeder{url: strings.TrimSuffix(u, "/")})
	}
	s.loadErr = s.load()
	return s
}

// open takes over the parts of the daemon and puts to use what is known.
func (s *seeders) open(d *daemon.Daemon, version string) error {
	p := parts{log: d.Log.Named("seeders"), net: d.Node, direct: d.Upstream, resolver: d.Resolver}
	if d.PSK != nil {
		p.psk = p2p.Fingerprint(d.PSK)
		p.token = func() (string, error) { return auth.PeerToken(d.PSK, d.Node.ID().String(), time.Now()) }
	}
	return s.use(p, version)
}

func (s *seeders) use(p parts, version string) error {
	s.parts = p
	if s.loadErr != nil {
		s.log.Warn("what the seeder said to an earlier process cannot be read; it is asked anew",
			zap.String("file", s.file), zap.Error(s.loadErr))
	}
	var err error
	if s.client, err = daemon.IntroductionClient(s.c.SeederCA); err != nil {
		return fmt.Errorf("--seeder-ca: %w", err)
	}
	for _, k := range s.list {
		// Its requests are not the upstreams' own: the seeder counts them.
		o := upstream.Options{
			MaxConcurrent: 16, ConnectTimeout: 2 * time.Second, HeaderTimeout: s.c.ManifestTimeout,
			IdleTimeout: s.c.ManifestTimeout / 2, // whoever answers has all of it: what stands still then leaves time for others
			UserAgent:   "samara-peerd/" + version, Log: s.log,
			NoBreaker: true, // internal/metadata keeps count of silent seeders
			CAFile:    s.c.SeederCA,
		}
		if p.token != nil {
			o.Keychain = upstream.BearerKeychain(p.token)
		}
		c, err := upstream.New(nil, o)
		if err != nil {
			return err
		}
		k.client = c
		k.source = &metadata.Source{Name: "seeder " + k.url, Client: c, Relay: true, Ping: pinger(s.client, k.url)}
	}
	s.apply()
	return nil
}

func (s *seeders) close() {
	for _, k := range s.list {
		if k.client != nil {
			k.client.Close()
		}
	}
}

// pinger asks for /v2/, which a seeder answers without asking anybody.
func pinger(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

// trusts tells whether p is one of our seeders.
func (s *seeders) trusts(p peer.ID) bool {
	if s.c.SeederID != "" {
		return p.String() == s.c.SeederID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.list {
		if k.in != nil && k.in.PeerID == p.String() {
			return true
		}
	}
	return false
}

// known tells whether some seeder is known, from now or from earlier.
func (s *seeders) known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.list {
		if k.in != nil {
			return true
		}
	}
	return false
}

// sources are the seeders that stand for an upstream, in the order given.
func (s *seeders) sources(up string) []*metadata.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*metadata.Source
	for _, k := range s.list {
		if k.in == nil || k.refused {
			continue
		}
		if _, ok := k.client.URL(up); ok {
			out = append(out, k.source)
		}
	}
	return out
}

// apply puts what is known to use: peers to connect to, upstreams to serve.
// Upstreams given by --upstream go before those of a seeder, those of one
// seeder before those of the next.
func (s *seeders) apply() {
	s.mu.Lock()
	ins := make([]*daemon.Introduction, len(s.list))
	for i, k := range s.list {
		ins[i] = k.in // one that is refused now still knew its upstreams
	}
	s.mu.Unlock()
	var t table
	for _, u := range s.c.Upstreams {
		t.add(u)
	}
	local := map[string]*upstream.Client{}
	def, asked := s.c.DefaultUpstream, false
	for i, in := range ins {
		var via []upstream.Registry
		if in != nil {
			asked = true
			if ai, err := in.AddrInfo(); err == nil { // it was checked when it came
				s.net.AddBootstrap(ai)
			}
			if def == "" {
				def = in.Default
			}
			for _, u := range in.Upstreams {
				name := registry.CanonicalUpstream(u.Name)
				if !registry.ValidUpstream(name) {
					s.log.Warn("the seeder has an upstream whose name is none", zap.String("seeder", s.list[i].url), zap.String("upstream", u.Name))
					continue
				}
				url := u.URL
				if url == "" { // the seeder's own repositories
					url = s.list[i].url
					if !t.names[name] {
						local[name] = s.list[i].client
					}
				}
				t.add(config.Upstream{Name: name, URL: url, Allow: u.Allow, Deny: u.Deny, MaxBlob: config.ByteSize(u.MaxBlob), Private: u.Private})
				via = append(via, upstream.Registry{Name: name, URL: s.list[i].url, NS: u.Name})
			}
		}
		if err := s.list[i].client.Update(via); err != nil {
			s.log.Error("what the seeder said cannot be used", zap.String("seeder", s.list[i].url), zap.Error(err))
		}
	}
	private := make(map[string]string, len(t.list))
	for _, u := range t.list {
		private[u.Name] = u.Private
	}
	s.mu.Lock()
	s.private, s.local = private, local
	s.mu.Unlock()
	if chosen := config.DefaultOf(t.list, def); !t.names[chosen] {
		if chosen != "" && asked {
			s.log.Error("the default upstream is not among the upstreams; requests that name none are answered 404",
				zap.String("default", chosen), zap.Strings("upstreams", t.order()))
		}
		def = ""
	} else {
		def = chosen
	}
	if err := errors.Join(s.direct.Update(t.registries()), s.resolver.Update(t.order(), def)); err != nil {
		s.log.Error("what the seeder said cannot be used", zap.Error(err))
	}
}

// table collects upstreams, each name once.
type table struct {
	list  []config.Upstream
	names map[string]bool
}

func (t *table) add(u config.Upstream) {
	if t.names == nil {
		t.names = make(map[string]bool)
	}
	if !t.names[u.Name] {
		t.names[u.Name] = true
		t.list = append(t.list, u)
	}
}

func (t *table) order() []string {
	names := make([]string, len(t.list))
	for i, u := range t.list {
		names[i] = u.Name
	}
	return names
}

func (t *table) registries() []upstream.Registry {
	return daemon.Registries(t.list)
}

// missedFor is how long a seeder may be no neighbour before that is a warning.
const missedFor = 15 * time.Second

// status adds the seeders to the status page.
func (s *seeders) status(st *status.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.list {
		line := status.Seeder{URL: k.url, Reachable: k.err == nil && k.in != nil}
		warn := func(code, text, remedy string) {
			st.Warnings = append(st.Warnings, status.Warning{Code: code, Text: text, Remedy: remedy})
		}
		if k.in != nil {
			line.ID = k.in.PeerID
		}
		switch {
		case k.refused:
			line.LastError = k.err.Error()
			warn("seeder-refused", k.err.Error(), "pulls go on from peers and upstreams; nothing is taken from this seeder until that is mended")
		case k.err != nil:
			line.LastError = k.err.Error()
			warn("seeder-unreachable", k.err.Error(), "pulls go on from peers and upstreams; start the seeder, or mend --seeder")
		case k.source != nil && k.source.Silent(""):
			line.Reachable, line.LastError = false, "does not answer requests for manifests"
			warn("seeder-silent", fmt.Sprintf("seeder %s takes requests but does not answer", k.url), "look at its log and load; pulls go on from peers and upstreams")
		case k.in != nil && !k.up && !k.upSince.IsZero() && time.Since(k.upSince) > missedFor:
			warn("seeder-not-connected", fmt.Sprintf("seeder %s answers, but there is no swarm connection to %v", k.url, k.in.Addrs),
				"open its --p2p-listen port to this host, or give it --advertise with an address that can be dialled")
		}
		st.Seeders = append(st.Seeders, line)
	}
}
