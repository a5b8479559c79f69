package mirror

import (
	"context"
	"fmt"

	"github.com/samara-p2p/samara/internal/canary"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Run is `peerd serve`: it serves until ctx ends, and returns once everything
// it started has ended. Errors say what is wrong, where, and what to do.
func Run(ctx context.Context, c config.Peerd, version string) error {
	s := newSeeders(c)
	clients := newAsked()
	d, err := daemon.Open(ctx, daemon.Params{
		Name: "peerd", Version: version, Config: c.Common, Warnings: c.Warnings(), Switch: c.SwitchTimeout, Gap: c.GapTimeout,
		Trusted: s.trusts, Status: func(st *status.Status) {
			s.status(st)
			clients.status(st)
		},
	})
	if err != nil {
		return err
	}
	defer d.Close()
	defer s.close()
	if err := s.open(d, version); err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	life, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.keepFresh(life)
	}()
	defer func() { stop(); <-done }()
	d.Admin.AddCheck("sources", func(context.Context) error {
		if len(c.Seeders) == 0 || s.known() || len(c.Upstreams) > 0 {
			return nil
		}
		return fmt.Errorf("no seeder was ever reached and no --upstream is given: nothing can be pulled")
	})
	b := newBackend(d, c, s)
	defer b.close()
	var canaries canary.Canaries
	d.Admin.Handle(canary.Path, canaries.Handler())
	d.Admin.Handle(canary.Path+"/", canaries.Handler())
	d.Examine(s.examine)
	front := canaries.Wrap(clients.wrap(b))
	return d.Serve(ctx, takeAuthorization(registry.NewHandler(front, registry.HandlerOptions{
		Resolver: d.Resolver, Log: d.Log.Named("registry"), Registerer: d.Metrics, Namespace: "peerd",
		NotFoundOnly: true, RefuseAfterCut: c.RefuseCut, DecisionTimeout: within(c.HeaderTimeout), Account: d.Account, Referrers: front,
	})))
}
