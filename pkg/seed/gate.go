package seed

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/accesslog"
	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/console"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/front"
	"github.com/samara-p2p/samara/internal/prewarm"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/registry"
)

// gate is what a request passes before it is answered: TLS, proxies, limits,
// and the guard.
type gate struct {
	log     *zap.Logger
	guard   *auth.Guard
	proxies front.Proxies
	limits  *front.Limits
	audit   *audit.Log     // nil: none
	access  *accesslog.Log // nil: none
	c       config.Security
	admin   http.Handler // nil until there is one
	harbor  http.Handler // likewise
}

// openGate makes the gate, and makes d speak TLS where that is configured.
// Errors say what is wrong with which file.
func openGate(d *daemon.Daemon, c config.Seeder) (*gate, error) {
	g := &gate{log: d.Log.Named("gate"), c: c.Security}
	rules, err := c.Rules()
	if err != nil {
		return nil, err
	}
	groups, err := c.GroupsOf()
	if err != nil {
		return nil, err
	}
	if g.proxies, err = front.ParseProxies(c.TrustedProxies, c.ProxyHeader); err != nil {
		return nil, err
	}
	g.limits = front.NewLimits(front.LimitOptions{
		Rate: c.RateLimit, Burst: c.RateBurst, Uploads: c.Uploads, UploadsPerClient: c.UploadsPerClient,
		Registerer: d.Metrics, Namespace: "seeder",
	})
	o := auth.Options{
		Rules: rules, Htpasswd: c.Htpasswd, Groups: groups, Issuers: c.Issuers,
		KeyFile: filepath.Join(c.Data, "token-keys.json"), Service: c.TokenService, Realm: c.TokenRealm, Lifetime: c.TokenLifetime,
		SwarmKey: d.PSK, Canonical: func(path, ns string) string { return canonical(d, path, ns) },
		Log: d.Log.Named("auth"), Registerer: d.Metrics, Namespace: "seeder",
	}
	if c.AuditLog != "" {
		g.audit, err = audit.Open(audit.Options{
			File: c.AuditLog, Size: int64(c.AuditSize), Keep: c.AuditKeep,
			Log: d.Log.Named("audit"), Registerer: d.Metrics, Namespace: "seeder",
		})
		if err != nil {
			return nil, err
		}
		o.Audit, o.AuditPulls = g.audit.Record, c.AuditPulls
	}
	if err = g.openAccessLog(d, c, &o); err == nil {
		g.guard, err = auth.New(o)
	}
	if err == nil {
		err = g.secure(d, c.Data)
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// secure makes the daemon speak TLS.
func (g *gate) secure(d *daemon.Daemon, data string) error {
	if len(g.c.ACMEDomains) > 0 {
		a, err := front.NewACME(front.ACMEOptions{
			Domains: g.c.ACMEDomains, Email: g.c.ACMEEmail, Directory: g.c.ACMEDirectory, CA: g.c.ACMECA, Dir: filepath.Join(data, "acme"),
			Log: d.Log.Named("tls"), Registerer: d.Metrics, Namespace: "seeder",
		})
		if err != nil {
			return err
		}
		d.Secure(a.Config())
		return nil
	}
	if g.c.TLSCert == "" {
		return nil
	}
	t, err := front.NewTLS(front.TLSOptions{
		Cert: g.c.TLSCert, Key: g.c.TLSKey, ClientCA: g.c.TLSClientCA, ClientRequired: g.c.TLSClientRequired,
		Log: d.Log.Named("tls"), Registerer: d.Metrics, Namespace: "seeder",
	})
	if err != nil {
		return err
	}
	d.Secure(t.Config())
	return nil
}

// wrap is the whole of what is served: the registry API behind the guard, and
// what is open to all. No http.ServeMux: it would redirect /v2 to /v2/ (contract
// 1), and clean paths that the registry has to judge.
func (g *gate) wrap(api, introduce http.Handler) http.Handler {
	guarded := g.guard.Wrap(g.limits.Uploads(uploader, api))
	tokens := g.guard.TokenHandler()
	administrate, preheat := g.guard.Admin(g.admin), g.guard.Admin(g.harbor)
	sessions := g.guard.Sessions()
	page := console.Handler()
	h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == daemon.IntroductionPath:
			introduce.ServeHTTP(w, r)
		case r.URL.Path == auth.TokenPath:
			tokens.ServeHTTP(w, r)
		case r.URL.Path == auth.SessionPath:
			sessions.ServeHTTP(w, r)
		case console.Is(r.URL.Path):
			page.ServeHTTP(w, r)
		case isAdmin(r.URL.Path):
			administrate.ServeHTTP(w, r)
		case r.URL.Path == prewarm.HarborHealth:
			w.WriteHeader(http.StatusOK)
		case r.URL.Path == prewarm.HarborJobs || strings.HasPrefix(r.URL.Path, prewarm.HarborJobs+"/"):
			preheat.ServeHTTP(w, r)
		default:
			guarded.ServeHTTP(w, r)
		}
	}))
	h = front.Headers(g.c.HSTS, g.limits.Requests(h))
	if g.access != nil {
		h = g.access.Wrap(h)
	}
	return g.proxies.Wrap(h)
}

// catalog leaves out of a list what a client may not see. Names that are left
// out are in no page and no link.
type catalog struct {
	registry.Cataloger
	canonical func(name string) string
}

// Repositories implements registry.Cataloger.
func (c catalog) Repositories(ctx context.Context, limit int, last string) ([]string, error) {
	all, err := c.Cataloger.Repositories(ctx, 0, last)
	if err != nil {
		return nil, err
	}
	shown := []string{}
	for _, name := range all {
		if limit > 0 && len(shown) == limit {
			break
		}
		if auth.Listed(ctx, c.canonical(name)) {
			shown = append(shown, name)
		}
	}
	return shown, nil
}

// guardedOptions are those of the handler that the guard has a say in.
func guardedOptions(d *daemon.Daemon, o registry.HandlerOptions) registry.HandlerOptions {
	if o.Cataloger != nil {
		o.Cataloger = catalog{o.Cataloger, func(name string) string { return canonical(d, name, "") }}
	}
	return o
}

// canonical is the repository that a path and ?ns= mean; one that means none
// stands for itself.
func canonical(d *daemon.Daemon, path, ns string) string {
	n, err := d.Resolver.Resolve(path, ns)
	if err != nil {
		return path
	}
	return n.String()
}

// uploader is for whom an upload counts: a user, whatever host it comes from.
func uploader(r *http.Request) string {
	id, _ := auth.FromContext(r.Context())
	return id.User
}

func (g *gate) close() {
	if g.audit != nil {
		if err := g.audit.Close(); err != nil {
			g.log.Warn("closing the audit log", zap.Error(err))
		}
	}
	if g.access != nil {
		if err := g.access.Close(); err != nil {
			g.log.Warn("closing the access log", zap.Error(err))
		}
	}
}
