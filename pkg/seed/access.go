package seed

import (
	"net/http"
	"os"

	"github.com/samara-p2p/samara/internal/accesslog"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/auth"
)

// openAccessLog opens the access log, where there is one, and has the guard
// tell it who asks.
func (g *gate) openAccessLog(d *daemon.Daemon, c config.Seeder, guard *auth.Options) (err error) {
	if c.AccessLog == "" {
		return nil
	}
	o := accesslog.Options{
		File: c.AccessLog, Size: int64(c.AccessLogSize), Keep: c.AccessLogKeep, Canonical: guard.Canonical,
		Log: d.Log.Named("access"), Registerer: d.Metrics, Namespace: "seeder",
	}
	if c.AccessLog == "-" {
		o.Writer = os.Stdout
	}
	guard.Identified = func(r *http.Request, id *auth.Identity) {
		accesslog.Identify(r.Context(), id.User, string(id.Method))
	}
	g.access, err = accesslog.Open(o)
	return err
}
