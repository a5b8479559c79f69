package mirror

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/visibility"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// admitTimeout bounds how long it may take to find out whether a client may be
// given a manifest; a blob has --header-timeout for all, a digest that nobody
// has named --lookup-limit.
const admitTimeout = 4 * time.Second

// gate decides who is given what (contract 24 to 27). What a peerd holds says
// nothing of that: it was fetched with the seeder's credentials, or from peers.
type gate struct {
	log        *zap.Logger
	policy     func(upstream string) string // config.PrivateByClient and so on
	public     *visibility.Public
	tokens     *visibility.Tokens
	challenges *visibility.Challenges
	answers    *prometheus.CounterVec // upstream, result
}

func newGate(d *daemon.Daemon, c config.Peerd, s *seeders) *gate {
	g := &gate{log: d.Log.Named("private"), policy: s.policy}
	g.answers = visibility.NewAnswers(d.Metrics, "peerd")
	o := visibility.Options{
		Ask:   s.public,
		Seen:  func(n registry.Name) time.Time { return d.Upstream.PublicAt(n.Upstream, n.Repository) },
		Stale: func(up string) time.Duration { return c.Ages(up).Stale },
		File:  filepath.Join(c.Data, "visibility.json"),
		Log:   g.log, Registerer: d.Metrics, Namespace: "peerd",
	}
	if d.PSK != nil {
		o.Hear = (&words{net: d.Node, join: joined(d)}).hear
	}
	g.public = visibility.NewPublic(o)
	if d.PSK != nil {
		d.Node.TellVisibility(g.tell)
	}
	g.tokens = visibility.NewTokens(func(ctx context.Context, n registry.Name, t upstream.Target, authorization string) error {
		return s.itself(n.Upstream).Accepts(ctx, n.Upstream, n.Repository, t, authorization)
	}, g.public, nil)
	g.challenges = visibility.NewChallenges(func(ctx context.Context, n registry.Name, t upstream.Target) (string, error) {
		return s.itself(n.Upstream).Challenge(ctx, n.Upstream, n.Repository, t)
	}, g.public, nil)
	g.learnStored(d)
	return g
}

func (g *gate) close() { g.public.Close() }

// learnStored notes which digests the stored manifests gave to their
// repositories.
func (g *gate) learnStored(d *daemon.Daemon) {
	for _, in := range d.Store.Infos() {
		if !in.Complete || len(in.Meta.Sources) == 0 || !registry.IsManifestType(in.Meta.MediaType) {
			continue
		}
		n, err := registry.ParseName(in.Meta.Sources[0])
		if err != nil {
			continue
		}
		content, mediaType, err := d.Engine.Held(in.Digest, registry.MaxManifestSize)
		if err != nil {
			continue
		}
		g.public.Learn(n, in.Digest)
		g.learn(n, &registry.Manifest{Digest: in.Digest, MediaType: mediaType, Content: content})
	}
}

// learn notes what a manifest names, where it is its repository's own.
func (g *gate) learn(n registry.Name, m *registry.Manifest) {
	if !g.public.Own(n, m.Digest) {
		return
	}
	if children, _, err := registry.Children(m.MediaType, m.Content); err == nil { // else it was logged when it came
		g.public.Learn(n, registry.Digests(children)...)
	}
}

// refused is why a client is not given something.
type refused struct {
	result    string // label of the metric
	challenge string
	err       error
}

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }

// unsure tells whether a client was refused because nobody could tell.
func unsure(err error) bool {
	var r *refused
	return errors.As(err, &r) && r.result == "unknown"
}

var (
	errForeign = errors.New("it is known to be another repository's, which is private")
	errNever   = errors.New("it is not public, and private=never")
	errNoToken = errors.New("it is not public, and the client shows no token")
)

// admit is nil where the client may be given the target.
func (g *gate) admit(ctx context.Context, n registry.Name, t upstream.Target) error {
	if ctx.Value(vouchedKey{}) != nil {
		return nil
	}
	r := g.judge(ctx, n, t)
	if r == nil {
		return nil
	}
	g.answers.WithLabelValues(n.Upstream, r.result).Inc()
	if r.err == nil {
		return nil
	}
	if ctx.Err() == nil {
		g.log.Info("not given to a client", zap.Stringer("repository", n), zap.String("reference", t.Manifest+t.Blob.String()),
			zap.String("result", r.result), zap.Error(r.err))
	}
	return r
}

// judge is nil for what is public; else it says what becomes of the request.
func (g *gate) judge(ctx context.Context, n registry.Name, t upstream.Target) *refused {
	way := g.policy(n.Upstream)
	if way == config.PrivateShared {
		private := func(o registry.Name) bool { return g.policy(o.Upstream) != config.PrivateShared }
		if d := digestOf(t); d != "" && g.public.Foreign(n, d, private) {
			return &refused{result: "foreign", err: errForeign}
		}
		return nil
	}
	err := g.public.Check(ctx, n, t)
	kind := upstream.KindOf(err)
	switch {
	case err == nil:
		return nil
	case kind == upstream.NotFound:
		return &refused{result: "not-found", err: err}
	case kind != upstream.Denied && shown(ctx) == "":
		return &refused{result: "unknown", err: err}
	case way == config.PrivateNever:
		return &refused{result: "never", err: errNever}
	}
	return g.byClient(ctx, n, t)
}

// byClient decides by what the client shows. What does not convince is 404 and
// not another challenge, so that the client moves on (contract 26).
func (g *gate) byClient(ctx context.Context, n registry.Name, t upstream.Target) *refused {
	if token := shown(ctx); token != "" {
		err := g.tokens.Check(ctx, n, t, token)
		switch upstream.KindOf(err) {
		case upstream.None:
			return &refused{result: "accepted"}
		case upstream.Denied:
			return &refused{result: "denied", err: err}
		case upstream.NotFound:
			return &refused{result: "not-found", err: err}
		}
		return &refused{result: "unknown", err: err}
	}
	text, err := g.challenges.Of(ctx, n, t)
	switch {
	case err != nil:
		return &refused{result: "unknown", err: err}
	case text == "": // it wants a password, which is not for us to ask for
		return &refused{result: "no-challenge", err: errNoToken}
	}
	return &refused{result: "challenged", challenge: text, err: errNoToken}
}

// answer makes the registry's error of why a client is not given something:
// unknown, but for a challenge.
func answer(err error, unknown *registry.Error) *registry.Error {
	var r *refused
	if errors.As(err, &r) && r.challenge != "" {
		return &registry.Error{Status: http.StatusUnauthorized, Code: registry.CodeUnauthorized,
			Message: "this repository is not public: its upstream wants a token", Challenge: r.challenge, Err: err}
	}
	return unknown
}

type vouchedKey struct{}

// vouched is for requests about which it was decided before that the client may
// have what it asks for.
func vouched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), vouchedKey{}, true)))
	})
}

type shownKey struct{}

// shown is the Authorization header of the client; "" for none.
func shown(ctx context.Context) string {
	s, _ := ctx.Value(shownKey{}).(string)
	return s
}

// takeAuthorization keeps what a client shows from everything behind it but the
// gate.
func takeAuthorization(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list := r.Header.Values("Authorization")
		if len(list) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		token := list[0]
		if len(list) > 1 {
			token = "several" // none that convinces
		}
		r = r.WithContext(context.WithValue(r.Context(), shownKey{}, token))
		r.Header = r.Header.Clone()
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	})
}
