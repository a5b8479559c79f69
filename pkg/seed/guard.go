package seed

import (
	"path/filepath"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/auth"
)

// newGuard is who stands before the registry API.
func newGuard(d *daemon.Daemon, c config.Seeder) (*auth.Guard, error) {
	rules, err := c.Rules()
	if err != nil {
		return nil, err
	}
	groups, err := c.GroupsOf()
	if err != nil {
		return nil, err
	}
	return auth.New(auth.Options{
		Rules: rules, Htpasswd: c.Htpasswd, Groups: groups,
		KeyFile: filepath.Join(c.Data, "token-keys.json"), Service: c.TokenService, Realm: c.TokenRealm, Lifetime: c.TokenLifetime,
		SwarmKey: d.PSK,
		Resolve: func(path, ns string) (string, error) {
			n, err := d.Resolver.Resolve(path, ns)
			return n.String(), err
		},
		Log: d.Log.Named("auth"), Registerer: d.Metrics, Namespace: "seeder",
	})
}
