package seed

import (
	"context"
	"net"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/handover"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Run is `seeder serve`: it serves until ctx ends, and returns once everything
// it started has ended. Errors say what is wrong, where, and what to do.
func Run(ctx context.Context, c config.Seeder, version string) error {
	return daemon.Run(ctx, "seeder", c.Common, func(ctx context.Context, t *handover.Turn) error { return serve(ctx, t, c, version) })
}

func serve(ctx context.Context, t *handover.Turn, c config.Seeder, version string) error {
	prefixes, err := proxiedQuotas(c)
	if err != nil {
		return err
	}
	kept, err := newBucket(c)
	if err != nil {
		return err
	}
	var endpoints endpointWarnings
	d, err := daemon.Open(ctx, daemon.Params{Name: "seeder", Version: version, Config: c.Common, Turn: t, Warnings: c.Warnings(), Seeder: true, Prefixes: prefixes,
		Durable: kept.open(), Status: func(st *status.Status) { kept.status(st); endpoints.status(st) }})
	if err != nil {
		return err
	}
	defer d.Close()
	b := newBackend(d, c, kept)
	defer b.close()
	hub, err := openEvents(d, c)
	if err != nil {
		return err
	}
	if hub != nil {
		endpoints.hub.Store(hub)
		defer hub.Close()
	}
	repos, err := openRepositories(d, c, b, kept, hub)
	if err != nil {
		return err
	}
	defer repos.close()
	o := guardedOptions(d, repos.options(registry.HandlerOptions{
		Resolver: d.Resolver, Log: d.Log.Named("registry"), Registerer: d.Metrics, Namespace: "seeder", Account: d.Account, Notify: tellRequests(d, hub),
	}))
	api := registry.NewHandler(newScoped(d, repos, kept != nil && c.BucketCopyPulled), o)
	known := openVisibility(d, c)
	defer known.Close()
	tellPeers(known, d)
	api = refuseLoops(tellVisibility(known, d, api), d.Node.ID().String())
	g, err := openGate(d, c)
	if err != nil {
		return err
	}
	defer g.close()
	a := &administrator{d: d, up: b, local: repos.local, hub: hub, localName: localName(c)}
	hosts, err := openOrders(d, c, a)
	if err != nil {
		return err
	}
	admin, err := openAdmin(ctx, d, c, newViewer(a, c.AuditLog, c.Zone), hosts, g)
	if err != nil {
		return err
	}
	defer admin.close()
	g.admin, g.harbor = admin.server, harbor(c, hosts, g)
	main := g.wrap(api, daemon.IntroductionHandler(func(host string) daemon.Introduction { return introduction(d, c, version, host) }))
	return d.Serve(ctx, daemon.Handlers{Main: main, Rest: api})
}

// introduction is what a peer learns of this seeder. Upstream URLs hold no
// credentials: the configuration refuses such.
func introduction(d *daemon.Daemon, c config.Seeder, version, host string) daemon.Introduction {
	in := daemon.Introduction{PeerID: d.Node.ID().String(), Version: version, Default: d.Resolver.Default()}
	if d.PSK != nil {
		in.SwarmKey = p2p.Fingerprint(d.PSK)
	}
	addrs := d.Node.Addrs()
	// The address under which the peer reached the registry API is one more,
	// the best behind NAT or a Service; with --advertise we were told better.
	if len(c.Advertise) == 0 {
		addrs = withHost(addrs, host)
	}
	for _, a := range addrs {
		in.Addrs = append(in.Addrs, a.String())
	}
	for _, u := range c.Upstreams {
		in.Upstreams = append(in.Upstreams, daemon.IntroduceUpstream{Name: u.Name, URL: u.URL,
			Allow: u.Allow, Deny: u.Deny, MaxBlob: int64(u.MaxBlob), Private: u.Private})
	}
	if len(c.LocalRepositories) > 0 {
		private := ""
		if !c.Ruled() && c.Htpasswd == "" && c.TokenRealm == "" {
			private = config.PrivateShared // anybody may pull them here
		}
		for _, name := range c.LocalNames { // without a URL: this seeder has them
			in.Upstreams = append(in.Upstreams, daemon.IntroduceUpstream{Name: registry.CanonicalUpstream(name), Private: private})
		}
	}
	return in
}

// withHost puts host, with the port of a libp2p address of its family, before
// the addresses that are known; unless it is one of them, or none at all.
func withHost(addrs []multiaddr.Multiaddr, host string) []multiaddr.Multiaddr {
	ip := net.ParseIP(host)
	port := ""
	for _, a := range addrs {
		have, err := manet.ToIP(a)
		if err == nil && ip != nil && have.Equal(ip) {
			return addrs
		}
		p, perr := a.ValueForProtocol(multiaddr.P_TCP)
		sameFamily := err == nil && ip != nil && (have.To4() == nil) == (ip.To4() == nil)
		if perr == nil && (port == "" || sameFamily) {
			port = p
		}
	}
	if port == "" {
		return addrs
	}
	a, err := daemon.HostPort(host, port)
	if err != nil {
		return addrs // whatever the Host header said
	}
	return append([]multiaddr.Multiaddr{a}, addrs...)
}
