package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Registry names one upstream.
type Registry struct {
	Name string // what users and ?ns= call it: "docker.io", "ghcr.io", or any word without a slash
	URL  string // scheme and host only: "https://registry-1.docker.io", "http://10.0.0.1:5000"
	// Mirrors are URLs that are asked before URL, in this order. Whatever one
	// fails to give, the next is asked for; what URL says last counts.
	Mirrors []string
	// NS is sent as ?ns= with every request: the upstream is a seeder (or
	// another mirror), NS the name by which it knows the registry meant. Its
	// failures are final: no request is sent again, and its Retry-After holds
	// up no other. "" for none.
	NS string

	Rules Rules

	// Where credentials for URL's host come from; neither: Options.Keychain.
	Helper string // NAME of a program docker-credential-NAME
	File   string // its first line is USER:PASSWORD; read at every login
}

// Options are all optional.
type Options struct {
	Keychain      authn.Keychain // nil: docker's config.json ($DOCKER_CONFIG, ~/.docker) with its credential helpers, or podman's auth.json
	ID            string         // our name in Via headers to other seeders, "" for none
	Offline       bool           // connect to nobody: every question ends with Offline
	NoBreaker     bool           // ask hosts that do not work all the same: the caller keeps count of failures itself
	RateReserve   int            // percent of an upstream's rate limit that Spare requests leave alone
	MaxConcurrent int            // blob streams per upstream, 8. Metadata requests have as many slots of their own, so they never stand behind downloads

	ConnectTimeout time.Duration // TCP and TLS each, 5 s
	HeaderTimeout  time.Duration // from the request to the response header, 10 s
	IdleTimeout    time.Duration // without a byte of a body, 15 s

	InsecureSkipVerify bool   // accept any TLS certificate of every upstream
	CAFile             string // PEM of authorities to trust besides the system's

	UserAgent  string // "samara"
	Log        *zap.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names: "seeder", "peerd"; "samara" when empty
	Now        func() time.Time      // time.Now; for token expiry and Retry-After
	Jitter     func() float64        // uniform in [0, 1), for back-off

	// dial replaces the dialer in tests that run on virtual time.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client talks to any number of upstreams. Safe for concurrent use.
type Client struct {
	o          Options
	transport  *http.Transport
	metrics    *metrics
	ctx        context.Context // of what outlives the request that began it: logins, probes
	cancel     context.CancelFunc
	background sync.WaitGroup

	helpers *helpers

	mu       sync.RWMutex
	byName   map[string]*entry
	breakers map[string]*breaker // by URL and NS
}

// entry is what is behind a name: whom to ask, in this order, and for what.
type entry struct {
	reg   Registry
	rules rules
	hosts []*upstream
}

// upstream is one host's state.
type upstream struct {
	name, base   string // base: scheme://host
	scheme, host string
	ns           string
	helper, file string // where its credentials come from
	maxBlob      *rules
	registry     name.Registry // for go-containerregistry
	*Client
	breaker         *breaker
	blobs, metadata lane

	mu           sync.Mutex
	challenge    *challenge // nil until the upstream has been heard
	sessions     map[account]*session
	warned       bool // that credentials go in clear
	blockedUntil time.Time
	strikes      int // 429s in a row without a Retry-After
	budget       budget
	stats        Stats
}

// New makes a client for these upstreams; there may be none. It does not talk
// to them. Errors name the upstream and say what is wrong with it.
func New(regs []Registry, o Options) (*Client, error) {
	defaults(&o.MaxConcurrent, 8)
	defaults(&o.ConnectTimeout, 5*time.Second)
	defaults(&o.HeaderTimeout, 10*time.Second)
	defaults(&o.IdleTimeout, 15*time.Second)
	if o.UserAgent == "" {
		o.UserAgent = "samara"
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Namespace == "" {
		o.Namespace = "samara"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	t, err := newTransport(o)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	m, err := newMetrics(o.Registerer, o.Namespace)
	if err != nil {
		return nil, fmt.Errorf("upstream: metrics: %w", err)
	}
	c := &Client{o: o, transport: t, metrics: m, byName: map[string]*entry{}}
	c.helpers = &helpers{c: c}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.Update(regs); err != nil {
		c.cancel()
		return nil, err
	}
	return c, nil
}

func defaults[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Close ends logins and probes under way and closes idle connections. Requests
// and readers end by their own contexts. It waits, but no more than 5 s for a
// credential helper of go-containerregistry's that does not return.
func (c *Client) Close() {
	c.cancel()
	done := make(chan struct{})
	go func() {
		c.background.Wait()
		close(done)
	}()
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
	c.transport.CloseIdleConnections()
}

// Update replaces the set of upstreams: a peer learns it from its seeder.
// Those that stay the same keep their state; requests under way to others go
// on. On an error nothing changes.
func (c *Client) Update(regs []Registry) error {
	next := make(map[string]*entry, len(regs))
	breakers := make(map[string]*breaker)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range regs {
		e, err := c.newEntry(r)
		if err != nil {
			return err
		}
		if next[r.Name] != nil {
			return fmt.Errorf("upstream %q is named twice", r.Name)
		}
		if old := c.byName[r.Name]; old != nil && reflect.DeepEqual(old.reg, e.reg) {
			e = old
		}
		next[r.Name] = e
	}
	for _, e := range next {
		for _, u := range e.hosts {
			key := u.base + "?ns=" + u.ns
			if breakers[key] == nil {
				if breakers[key] = c.breakers[key]; breakers[key] == nil {
					breakers[key] = c.newBreaker(u.name, u.base, u.ns)
				}
			}
			if u.breaker == nil { // else it is in use
				u.breaker = breakers[key]
			}
		}
	}
	for key, b := range c.breakers {
		if breakers[key] == nil {
			b.stop()
			c.metrics.breaker.DeleteLabelValues(b.name, b.base.Host)
		}
	}
	c.byName, c.breakers = next, breakers
	return nil
}

var nameGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)

func (c *Client) newEntry(r Registry) (*entry, error) {
	if !nameGrammar.MatchString(r.Name) {
		return nil, fmt.Errorf("upstream %q: a name has 1 to 128 letters, digits, '.', '_', ':' or '-' and begins with a letter or digit", scrub(r.Name))
	}
	e := &entry{reg: r}
	var err error
	if e.rules, err = newRules(r.Rules); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", r.Name, err)
	}
	for _, at := range append(slices.Clone(r.Mirrors), r.URL) {
		u, err := c.newUpstream(r, at)
		if err != nil {
			return nil, err
		}
		u.maxBlob = &e.rules
		e.hosts = append(e.hosts, u)
	}
	own := e.own()
	own.helper, own.file = r.Helper, r.File
	e.reg.URL = own.base // however it was written
	return e, nil
}

// newUpstream makes one of the hosts behind a name.
func (c *Client) newUpstream(r Registry, at string) (*upstream, error) {
	refuse := func(why string) error {
		return fmt.Errorf("upstream %s: URL %q: %s", r.Name, scrub(at), why)
	}
	if !strings.HasPrefix(at, "http://") && !strings.HasPrefix(at, "https://") {
		return nil, refuse("must begin with https:// or http://")
	}
	u, err := url.Parse(at)
	switch {
	case err != nil:
		return nil, refuse("cannot be read")
	case u.User != nil:
		return nil, refuse("must not hold credentials; put them in docker's config.json (docker login, or DOCKER_CONFIG=DIR), or in a file of their own")
	case u.Host == "" || u.Hostname() == "":
		return nil, refuse("has no host")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, refuse("must be scheme and host only; a registry lives at the root of its host, without a path")
	}
	host := canonicalHost(u)
	if host == "docker.io" || host == "index.docker.io" {
		host = hubHost // the other two serve a website and the search API
	}
	var opts []name.Option
	if u.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(host, opts...)
	if err != nil {
		return nil, refuse("has a host that no registry can have")
	}
	return &upstream{
		name: r.Name, base: u.Scheme + "://" + host, scheme: u.Scheme, host: host, ns: r.NS, registry: reg, Client: c,
		blobs: newLane(c.o.MaxConcurrent), metadata: newLane(c.o.MaxConcurrent),
		sessions: map[account]*session{}, stats: Stats{Errors: map[Kind]int64{}},
	}, nil
}

// canonicalHost is host[:port] in lower case without the scheme's own port.
func canonicalHost(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

// Names are the names of the upstreams, sorted.
func (c *Client) Names() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	names := make([]string, 0, len(c.byName))
	for n := range c.byName {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// URL is the base URL of an upstream; false when there is none of this name.
func (c *Client) URL(name string) (string, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.byName[name]
	if e == nil {
		return "", false
	}
	return e.own().base, true
}

// Stats describes every upstream, sorted by name; one with mirrors once per
// URL, in the order in which they are asked.
func (c *Client) Stats() []Stats {
	all := make([]Stats, 0)
	for _, n := range c.Names() {
		c.mu.RLock()
		e := c.byName[n]
		c.mu.RUnlock()
		if e == nil {
			continue
		}
		for _, u := range e.hosts {
			all = append(all, u.snapshot())
		}
	}
	return all
}

func (c *Client) now() time.Time { return c.o.Now() }

var (
	// Distribution-spec 1.1, "Pulling manifests".
	repoGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// find checks the upstream's and the repository's name, and whether it may be
// asked at all. Nothing unchecked gets into a URL.
func (c *Client) find(op, name, repo, what string) (*entry, error) {
	e := &Error{Op: op, Upstream: scrub(name), Repo: scrub(repo), What: scrub(what), Kind: Invalid}
	c.mu.RLock()
	entry := c.byName[name]
	c.mu.RUnlock()
	if entry == nil {
		e.Err = fmt.Errorf("no such upstream; there are: %s", strings.Join(c.Names(), ", "))
		return nil, e
	}
	if len(repo) > 255 || !repoGrammar.MatchString(repo) {
		e.Err = fmt.Errorf("not a repository name")
		return nil, e
	}
	if err := entry.rules.repository(repo); err != nil {
		e.Kind, e.Err = Refused, err
		return nil, e
	}
	if c.o.Offline {
		e.Kind, e.Err = Offline, errOffline
		return nil, e
	}
	return entry, nil
}

var errOffline = errors.New("offline: only what is held here already can be had")

// own is the host of the URL, which is asked last.
func (e *entry) own() *upstream { return e.hosts[len(e.hosts)-1] }

// each asks the hosts of a name in order, until one gives an answer or says
// that to ask another is no use.
func each[T any](e *entry, ask func(*upstream) (T, *Error)) (T, error) {
	for i, u := range e.hosts {
		v, err := ask(u)
		switch {
		case err == nil:
			return v, nil
		case i+1 < len(e.hosts) && err.Kind != Canceled && err.Kind != Refused:
			u.o.Log.Info("a mirror does not give it; the next is asked", zap.String("upstream", u.name), zap.String("mirror", u.base), zap.Error(err))
			continue
		}
		return v, err
	}
	panic("upstream: a name without a URL") // newEntry gives each one
}

// lane bounds how many exchanges are open at a time.
type lane chan struct{}

func newLane(n int) lane { return make(lane, n) }

func (l lane) enter(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l lane) leave() { <-l }
