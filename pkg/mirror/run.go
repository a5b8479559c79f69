package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Run is `peerd serve`: it serves until ctx ends, and returns once everything
// it started has ended. Errors say what is wrong, where, and what to do.
func Run(ctx context.Context, c config.Peerd, version string) error {
	know := newAcquaintance(c)
	d, err := daemon.Open(daemon.Params{Name: "peerd", Version: version, Config: c.Common, Trusted: know.trusts})
	if err != nil {
		return err
	}
	defer d.Close()
	life, stop := context.WithCancel(context.Background())
	defer stop()
	// The upstreams as the seeder serves them. Its requests are not the
	// upstreams' own: they are counted apart, by the seeder.
	seeder, err := upstream.New(nil, upstream.Options{
		MaxConcurrent: 16, ConnectTimeout: 2 * time.Second, HeaderTimeout: seederTimeout,
		UserAgent: "samara-peerd/" + version, Log: d.Log.Named("seeder"),
	})
	if err != nil {
		return err
	}
	defer seeder.Close()
	b := &backend{
		engine: d.Engine, seeder: seeder, direct: d.Upstream, tags: d.Tags, catalog: d.Catalog,
		log: d.Log.Named("mirror"), now: time.Now, tagTTL: c.TagTTL, stale: c.StaleIfError,
		noPrefetch: c.NoPrefetch, life: life,
	}
	if err := know.open(d, seeder); err != nil {
		return err
	}
	// A first try before the first client: a daemon that is pointed at
	// something else than a seeder should say so at once.
	if err := know.refresh(ctx); errors.Is(err, daemon.ErrNoSeeder) && !know.any() {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		know.keepFresh(life)
	}()
	defer func() { stop(); <-done }()
	d.Admin.AddCheck("seeder", func(context.Context) error {
		if len(c.Seeders) == 0 || know.any() || len(d.Upstream.Names()) > 0 {
			return nil
		}
		return fmt.Errorf("no seeder was ever reached and no --upstream is given: nothing can be pulled")
	})
	d.StatusHook = know.status
	mux := http.NewServeMux()
	mux.Handle("/v2/", registry.NewHandler(b, registry.HandlerOptions{
		Resolver: d.Resolver, Log: d.Log.Named("registry"), Registerer: d.Metrics, Namespace: "peerd",
		NotFoundOnly: true, DecisionTimeout: blobTimeout, Account: d.Account,
	}))
	return d.Serve(ctx, mux)
}
