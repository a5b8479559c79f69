package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/pkg/registry"
)

// TokenPath is where TokenHandler belongs: challenges name it.
const TokenPath = "/token"

// Options configure a Guard. Canonical and KeyFile are required.
type Options struct {
	Rules    Rules
	Htpasswd string              // file; "" for none
	Groups   map[string][]string // of users of the htpasswd file
	Issuers  string              // file of external issuers; "" for none

	KeyFile  string        // keys of the seeder's own tokens; made when missing
	Service  string        // the name of this registry in tokens; default DefaultService
	Realm    string        // URL of a token endpoint elsewhere; "" for our own
	Lifetime time.Duration // of tokens of our own; default 5 min

	// SwarmKey admits peers: tokens made with it by PeerToken. nil: none.
	SwarmKey []byte

	// Canonical makes a repository's canonical name of the one in a path and of
	// ?ns=, just as the handler does. A name that the handler will refuse stands
	// for itself: whoever may not read it does not learn that.
	Canonical func(path, ns string) string

	// Identified is told who sent a request, right or wrong. May be nil.
	Identified func(*http.Request, *Identity)

	Audit      func(audit.Event) // is told what was done and what was refused; nil: nobody is
	AuditPulls bool              // also what was pulled

	Log        *zap.Logger           // nil: no logs
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
	Now        func() time.Time      // default time.Now
}

// DefaultService is the name of a seeder in tokens.
const DefaultService = "samara-seeder"

// Guard decides who may do what. Safe for concurrent use.
type Guard struct {
	o         Options
	open      bool // nothing is configured: everything is allowed
	logins    bool // somebody can log in
	users     *htpasswd
	issuers   map[string]*issuer // by what they call themselves
	keys      *signingKeys
	peerKey   []byte
	lockout   *lockout
	signedOut signedOut
	metrics   *metrics
}

// New reads what o names. Errors say what is wrong with which file.
func New(o Options) (*Guard, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Service == "" {
		o.Service = DefaultService
	}
	if o.Lifetime <= 0 {
		o.Lifetime = 5 * time.Minute
	}
	logins := o.Htpasswd != "" || o.Issuers != "" || o.Realm != ""
	g := &Guard{o: o, open: len(o.Rules) == 0 && !logins, logins: logins, lockout: newLockout(o.Now)}
	g.metrics = newMetrics(o.Registerer, o.Namespace)
	if g.open {
		return g, nil
	}
	if !o.Rules.speakOf("peers") {
		// They have it anyway: whoever has the swarm key may take any blob.
		g.o.Rules = append(Rules{{who: "peers", actions: Pull, patterns: []pattern{newPattern("**", component)}}}, o.Rules...)
	}
	if o.SwarmKey != nil {
		var err error
		if g.peerKey, err = derive(o.SwarmKey); err != nil {
			return nil, err
		}
	}
	var err error
	if o.Htpasswd != "" {
		if g.users, err = openHtpasswd(o.Htpasswd, o.Log, o.Now); err != nil {
			return nil, err
		}
	}
	if err := g.openIssuers(); err != nil {
		return nil, err
	}
	if g.keys, err = openSigningKeys(o.KeyFile, o.Now); err != nil {
		return nil, err
	}
	registerKeyExpiry(o.Registerer, o.Namespace, g.keys)
	return g, nil
}

func (g *Guard) openIssuers() error {
	if g.o.Issuers == "" {
		return nil
	}
	list, err := readIssuers(g.o.Issuers)
	if err != nil {
		return err
	}
	g.issuers = map[string]*issuer{}
	for _, c := range list {
		if c.Issuer == g.o.Service {
			return fmt.Errorf("%s: issuer %q is what this seeder calls itself", g.o.Issuers, c.Issuer)
		}
		if g.issuers[c.Issuer], err = newIssuer(c, g.o.Log, g.o.Now); err != nil {
			return err
		}
	}
	return nil
}

// need is something that a request wants to do.
type need struct {
	asked     string // the repository, as a client calls it; "" for the catalog
	canonical string
	actions   Actions
}

// Wrap lets those requests through to next, the /v2/ handler, that are allowed.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := g.judge(r)
		g.metrics.request(q.id, q.err)
		if g.o.Identified != nil {
			g.o.Identified(r, q.id)
		}
		w, done := g.observe(w, q)
		defer done()
		if q.err != nil {
			g.refuse(w, q)
			return
		}
		r = g.withoutForeignMount(q)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, decided{g, q.id})))
	})
}

// judge decides about a request.
func (g *Guard) judge(r *http.Request) *request {
	q := &request{Request: r, route: registry.ParsePath(r.URL.Path)}
	if q.needs, q.err = g.needs(r, q.route); q.err != nil {
		q.id = anonymous
		return q
	}
	if q.id, q.err = g.identify(r); q.err == nil {
		q.err = g.decide(q)
	}
	return q
}

// errNoEndpoint says that the path is not of the API, or new to the Guard.
var errNoEndpoint = errors.New("no such endpoint")

// needs reads what a request is about to do.
func (g *Guard) needs(r *http.Request, rt registry.Route) ([]need, error) {
	var a Actions
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch rt.Endpoint {
	case registry.EndpointPing:
		return nil, nil
	case registry.EndpointCatalog:
		return []need{{actions: Catalog}}, nil
	case registry.EndpointManifest, registry.EndpointBlob, registry.EndpointTags, registry.EndpointReferrers:
		switch {
		case read:
			a = Pull
		case r.Method == http.MethodDelete:
			a = Delete
		default:
			a = Push
		}
	case registry.EndpointUpload: // also to look at one, and to give it up
		a = Push
	default:
		if g.open {
			return nil, nil
		}
		return nil, errNoEndpoint
	}
	ns := r.URL.Query().Get("ns")
	n := need{asked: rt.Repository, actions: a}
	n.canonical = g.o.Canonical(rt.Repository, ns)
	if ns != "" { // a scope has no ns beside it
		n.asked = n.canonical
	}
	return []need{n}, nil
}

// withoutForeignMount makes a plain upload of the mount of a blob from where
// the client may not read: it then sends what it has.
func (g *Guard) withoutForeignMount(q *request) *http.Request {
	query := q.URL.Query()
	if g.open || q.route.Endpoint != registry.EndpointUpload || !query.Has("mount") {
		return q.Request
	}
	allowed := false
	if from := query.Get("from"); from != "" {
		allowed = g.may(q.id, Pull, g.o.Canonical(from, "")) && g.may(q.id, Pull, g.o.Canonical(from, query.Get("ns")))
	} else { // from wherever it is
		allowed = q.id.grants == nil && g.mayPullAll(q.id)
	}
	if allowed {
		return q.Request
	}
	query.Del("mount")
	query.Del("from")
	r := q.Clone(q.Context())
	r.URL.RawQuery = query.Encode()
	return r
}

func (g *Guard) mayPullAll(id *Identity) bool {
	for _, p := range g.o.Rules.patterns(id, Pull) {
		if p.text == "**" {
			return true
		}
	}
	return false
}

// may tells whether an identity may do something with a repository.
func (g *Guard) may(id *Identity, a Actions, canonical string) bool {
	return g.open || g.allowed(id, canonical).has(a)
}

// allowed is what an identity may do with a repository: what its token is for,
// or else what rules say.
func (g *Guard) allowed(id *Identity, canonical string) Actions {
	if id.grants != nil {
		return id.grants.repositories[canonical]
	}
	return g.o.Rules.allowed(id, canonical)
}

// view is the catalog as an identity sees it; nil for none.
func (g *Guard) view(id *Identity) *view {
	if id.grants != nil {
		return id.grants.catalog
	}
	v := &view{listed: g.o.Rules.patterns(id, Catalog), pulled: g.o.Rules.patterns(id, Pull)}
	if len(v.listed) == 0 {
		return nil
	}
	return v
}

func (g *Guard) lists(id *Identity, repository string) bool {
	if g.open {
		return true
	}
	v := g.view(id)
	return v != nil && v.shows(repository)
}

// denied is why a request is refused.
type denied struct {
	user    string        // whom it is about, where that is not the identity
	reason  string        // a metric label and a word of the audit log
	message string        // for the client
	retry   time.Duration // then ask again
}

func (d *denied) Error() string { return d.message }

var (
	errNoCredentials = &denied{reason: "unauthenticated", message: "authentication is required"}
	errBadLogin      = &denied{reason: "invalid", message: "user name or password is wrong"}
	errBadToken      = &denied{reason: "invalid", message: "the token is not valid here, or not any more"}
	errInsufficient  = &denied{reason: "denied", message: "access to the resource is denied"}
	errNotNow        = &denied{reason: "busy", message: "too many logins at the same time", retry: time.Second}
)

// decide is nil where a request may go through.
func (g *Guard) decide(q *request) error {
	allowed := !g.logins || q.route.Endpoint != registry.EndpointPing || q.id != anonymous
	for _, n := range q.needs {
		if n.actions == Catalog {
			allowed = allowed && (g.open || g.view(q.id) != nil)
		} else {
			allowed = allowed && g.may(q.id, n.actions, n.canonical)
		}
	}
	switch {
	case allowed:
		return nil
	case q.id == anonymous:
		return errNoCredentials
	}
	return errInsufficient
}

// refuse answers a request that may not go through.
func (g *Guard) refuse(w http.ResponseWriter, q *request) {
	e := &registry.Error{Status: http.StatusUnauthorized, Code: registry.CodeUnauthorized, Message: q.err.Error()}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	var d *denied
	errors.As(q.err, &d)
	switch {
	case errors.Is(q.err, errNoEndpoint):
		e.Status, e.Code = http.StatusNotFound, registry.CodeUnsupported
	case d.retry > 0:
		e.Status, e.Code, e.RetryAfter = http.StatusTooManyRequests, registry.CodeTooManyRequests, d.retry
	case d == errInsufficient && !bearer(q.Request):
		e.Status, e.Code = http.StatusForbidden, registry.CodeDenied // no token would do better
	default:
		h.Set("WWW-Authenticate", g.challenge(q, d))
	}
	if q.ContentLength != 0 { // nobody reads what is being sent
		h.Set("Connection", "close")
	}
	registry.WriteError(w, q.Request, e)
}

// challenge is the header of RFC 6750 with the parameters of distribution's
// token specification.
func (g *Guard) challenge(q *request, d *denied) string {
	realm := g.o.Realm
	if realm == "" {
		realm = baseURL(q.Request) + TokenPath
	}
	params := []string{quoted("realm", realm), quoted("service", g.o.Service)}
	var scopes []string
	for _, n := range q.needs {
		scopes = append(scopes, n.scope())
	}
	if query := q.URL.Query(); len(q.needs) == 1 && query.Get("mount") != "" && query.Get("from") != "" {
		scopes = append(scopes, need{asked: query.Get("from"), actions: Pull}.scope())
	}
	if len(scopes) > 0 {
		params = append(params, quoted("scope", strings.Join(scopes, " ")))
	}
	switch d {
	case errInsufficient:
		params = append(params, quoted("error", "insufficient_scope"))
	case errBadToken:
		params = append(params, quoted("error", "invalid_token"))
	}
	return "Bearer " + strings.Join(params, ",")
}

// scope is what a token must be asked for. Who pushes looks first at what is
// there, so that clients ask for both in one token.
func (n need) scope() string {
	switch n.actions {
	case Catalog:
		return "registry:catalog:*"
	case Push:
		return "repository:" + n.asked + ":pull,push"
	}
	return "repository:" + n.asked + ":" + strings.Join(n.actions.names(), ",")
}

// quoted is a parameter with a quoted-string (RFC 9110, 5.6.4). What cannot be
// in one is dropped: a name with it is none.
func quoted(name, value string) string {
	clean := strings.Map(func(c rune) rune {
		if c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return -1
		}
		return c
	}, value)
	return name + `="` + clean + `"`
}

// baseURL is where the client sees this seeder. What stands before the Guard
// puts what a trusted proxy says of it into the URL's scheme and the Host.
func baseURL(r *http.Request) string {
	u := url.URL{Scheme: r.URL.Scheme, Host: r.Host}
	if u.Scheme == "" {
		u.Scheme = "http"
		if r.TLS != nil {
			u.Scheme = "https"
		}
	}
	return u.String()
}

// client is the address of whoever sent the request; the zero Addr where that
// is not known.
func client(r *http.Request) netip.Addr {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return ap.Addr()
	}
	a, _ := netip.ParseAddr(r.RemoteAddr)
	return a
}

func bearer(r *http.Request) bool {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer")
}
