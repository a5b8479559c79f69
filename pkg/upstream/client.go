package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
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
	// NS is sent as ?ns= with every request: the upstream is a seeder (or
	// another mirror), NS the name by which it knows the registry meant. Its
	// failures are final: no request is sent again, and its Retry-After holds
	// up no other. "" for none.
	NS string
}

// Options are all optional.
type Options struct {
	Keychain      authn.Keychain // nil: docker's config.json ($DOCKER_CONFIG, ~/.docker) with its credential helpers, or podman's auth.json
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
	o         Options
	transport *http.Transport
	metrics   *metrics
	ctx       context.Context // of logins, which outlive the request that began them
	cancel    context.CancelFunc
	logins    sync.WaitGroup

	mu     sync.RWMutex
	byName map[string]*upstream
}

// upstream is one registry's state.
type upstream struct {
	name, base   string // base: scheme://host
	scheme, host string
	ns           string
	registry     name.Registry // for go-containerregistry
	*Client
	blobs, metadata lane

	mu           sync.Mutex
	challenge    *challenge          // nil until the upstream has been heard
	sessions     map[string]*session // by repository
	warned       bool                // that credentials go in clear
	blockedUntil time.Time
	strikes      int // 429s in a row without a Retry-After
	stats        Stats
}

// New makes a client for these upstreams; there may be none. It does not talk
// to them. Errors name the upstream and say what is wrong with it.
func New(regs []Registry, o Options) (*Client, error) {
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
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
	c := &Client{o: o, transport: t, metrics: m, byName: map[string]*upstream{}}
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

// Close ends logins under way and closes idle connections. Requests and
// readers end by their own contexts. It waits for logins, but no more than 5 s
// for a credential helper that does not return.
func (c *Client) Close() {
	c.cancel()
	done := make(chan struct{})
	go func() {
		c.logins.Wait()
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
	next := make(map[string]*upstream, len(regs))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range regs {
		u, err := c.newUpstream(r)
		if err != nil {
			return err
		}
		if next[r.Name] != nil {
			return fmt.Errorf("upstream %q is named twice", r.Name)
		}
		if old := c.byName[r.Name]; old != nil && old.base == u.base && old.ns == u.ns {
			u = old
		}
		next[r.Name] = u
	}
	c.byName = next
	return nil
}

var nameGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)

func (c *Client) newUpstream(r Registry) (*upstream, error) {
	if !nameGrammar.MatchString(r.Name) {
		return nil, fmt.Errorf("upstream %q: a name has 1 to 128 letters, digits, '.', '_', ':' or '-' and begins with a letter or digit", scrub(r.Name))
	}
	refuse := func(why string) error {
		return fmt.Errorf("upstream %s: URL %q: %s", r.Name, scrub(r.URL), why)
	}
	if !strings.HasPrefix(r.URL, "http://") && !strings.HasPrefix(r.URL, "https://") {
		return nil, refuse("must begin with https:// or http://")
	}
	u, err := url.Parse(r.URL)
	switch {
	case err != nil:
		return nil, refuse("cannot be read")
	case u.User != nil:
		return nil, refuse("must not hold credentials; put them in docker's config.json (docker login, or DOCKER_CONFIG=DIR)")
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
		sessions: map[string]*session{}, stats: Stats{Errors: map[Kind]int64{}},
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
	u := c.byName[name]
	if u == nil {
		return "", false
	}
	return u.base, true
}

// Stats describes every upstream, sorted by name.
func (c *Client) Stats() []Stats {
	all := make([]Stats, 0)
	for _, n := range c.Names() {
		c.mu.RLock()
		u := c.byName[n]
		c.mu.RUnlock()
		if u != nil {
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

// find checks the upstream's and the repository's name. Nothing unchecked
// gets into a URL.
func (c *Client) find(op, name, repo, what string) (*upstream, error) {
	e := &Error{Op: op, Upstream: scrub(name), Repo: scrub(repo), What: scrub(what), Kind: Invalid}
	c.mu.RLock()
	u := c.byName[name]
	c.mu.RUnlock()
	if u == nil {
		e.Err = fmt.Errorf("no such upstream; there are: %s", strings.Join(c.Names(), ", "))
		return nil, e
	}
	if len(repo) > 255 || !repoGrammar.MatchString(repo) {
		e.Err = fmt.Errorf("not a repository name")
		return nil, e
	}
	return u, nil
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
