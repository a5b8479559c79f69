package seed

import (
	"context"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/prewarm"
	"github.com/samara-p2p/samara/pkg/registry"
)

// openOrders has hosts told what to fetch ahead, while the daemon serves.
func openOrders(d *daemon.Daemon, c config.Seeder, a *administrator) (*prewarm.Manager, error) {
	m, err := prewarm.Open(prewarm.Options{File: filepath.Join(c.Data, "prewarm.json"), Net: d.Node, Resolve: a.resolve,
		Log: d.Log.Named("prewarm"), Registerer: d.Metrics, Namespace: "seeder"})
	if err != nil {
		return nil, err
	}
	d.Beside(m.Run)
	return m, nil
}

// resolve tells what an image means now: one of an upstream, or of a local
// repository.
func (a *administrator) resolve(ctx context.Context, image string) (prewarm.Resolved, error) {
	req, err := a.imageOf(image)
	if err != nil {
		return prewarm.Resolved{}, &registry.Error{Status: 400, Code: registry.CodeNameInvalid, Message: err.Error(), Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	get := a.up.Manifest
	if a.local != nil && a.d.Resolver.IsLocal(req.Name) {
		get = a.local.Manifest
	}
	m, err := get(ctx, req)
	if err != nil {
		return prewarm.Resolved{}, err
	}
	r := prewarm.Resolved{Repository: req.Name.String(), Digest: m.Digest.String()}
	if req.Digest == "" {
		r.Tag = req.Reference
	}
	return r, nil
}

// harbor is what Harbor drives. Its orders are in the audit log as those of the
// admin API.
func harbor(c config.Seeder, m *prewarm.Manager, g *gate) http.Handler {
	at := func(host string) string {
		for _, u := range c.Upstreams {
			for _, s := range slices.Concat([]string{u.URL}, u.Mirrors) {
				if parsed, err := url.Parse(s); err == nil && parsed.Host == host {
					return u.Name
				}
			}
			if u.Name == host {
				return u.Name
			}
		}
		if slices.Contains(c.LocalNames, host) && len(c.LocalRepositories) > 0 {
			return host
		}
		return ""
	}
	return prewarm.Harbor(m, at, func(r *http.Request) string {
		who := caller(r)
		if g.audit != nil {
			g.audit.Record(audit.Event{User: who.User, Auth: who.Auth, Client: who.Client, Action: "admin", Method: r.Method, Reference: r.URL.Path, Outcome: "allowed", Status: http.StatusOK})
		}
		return who.User
	})
}
