package mirror

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/internal/canary"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/handover"
	"github.com/samara-p2p/samara/internal/report"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Run is `peerd serve`: it serves until ctx ends, and returns once everything
// it started has ended. Errors say what is wrong, where, and what to do.
func Run(ctx context.Context, c config.Peerd, version string) error {
	return daemon.Run(ctx, "peerd", c.Common, func(ctx context.Context, t *handover.Turn) error { return serve(ctx, t, c, version) })
}

func serve(ctx context.Context, t *handover.Turn, c config.Peerd, version string) error {
	s := newSeeders(c)
	clients := newAsked()
	d, err := daemon.Open(ctx, daemon.Params{
		Name: "peerd", Version: version, Config: c.Common, Turn: t, Warnings: c.Warnings(), Switch: c.SwitchTimeout, Gap: c.GapTimeout,
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
	var lives sync.WaitGroup
	lives.Go(func() { s.keepFresh(life) })
	lives.Go(func() { reporter(d, s, c).Run(life) })
	defer func() { stop(); lives.Wait() }()
	d.Admin.AddCheck("sources", func(context.Context) error {
		if len(c.Seeders) == 0 || s.known() || len(c.Upstreams) > 0 {
			return nil
		}
		return fmt.Errorf("no seeder was ever reached and no --upstream is given: nothing can be pulled")
	})
	b := newBackend(d, c, s)
	defer b.close()
	d.Beside(newPrewarmer(d, c, s, b).run)
	var canaries canary.Canaries
	d.Admin.Handle(canary.Path, canaries.Handler())
	d.Admin.Handle(canary.Path+"/", canaries.Handler())
	d.Examine(s.examine)
	front := canaries.Wrap(clients.wrap(b))
	h := registry.NewHandler(front, registry.HandlerOptions{
		Resolver: d.Resolver, Log: d.Log.Named("registry"), Registerer: d.Metrics, Namespace: "peerd",
		NotFoundOnly: true, Refusals: b.refusals, UpstreamHeaders: upstreamHeaders, Cause: cause,
		DecisionTimeout: within(c.HeaderTimeout), Account: d.Account, Referrers: front,
	})
	api := takeAuthorization(h)
	if c.DockerTokens {
		api = greetDocker(s, api)
	}
	return d.Serve(ctx, daemon.Handlers{Main: onlyBlobsAfter(ctx, api), Rest: vouched(h), Lingers: partOfPull})
}

// reporter tells seeders that are trusted what this host does.
func reporter(d *daemon.Daemon, s *seeders, c config.Peerd) *report.Reporter {
	name, err := os.Hostname()
	if err != nil {
		name = "" // it has a peer ID
	}
	return report.New(report.Options{Name: name, Zone: c.Zone, Engine: d.Engine, Store: d.Store, Neighbours: d.Node.Neighbours,
		Open: func(ctx context.Context, to peer.ID) (report.Stream, error) {
			stream, err := d.Node.OpenReports(ctx, to)
			if err != nil {
				return nil, err
			}
			return stream, nil
		},
		ToClients: d.ToClients, Seeder: s.trusts, Log: d.Log.Named("report")})
}

// partOfPull tells of requests after which a client asks for blobs. podman, CRI-O
// and skopeo change no host after the manifest (contract 10): a peerd that is to
// stop has to give them the blobs, too.
func partOfPull(r *http.Request) bool {
	k := registry.ParsePath(r.URL.Path).Endpoint
	return k == registry.EndpointManifest || k == registry.EndpointBlob
}

// onlyBlobsAfter sends new pulls elsewhere once ctx has ended: whatever they
// begin with is 404, while those that are under way get their blobs.
func onlyBlobsAfter(ctx context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil && registry.ParsePath(r.URL.Path).Endpoint != registry.EndpointBlob {
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
