package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/obs"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Params say which daemon is to be opened.
type Params struct {
	Name    string // "seeder" or "peerd"
	Version string
	Config  config.Common
	Seeder  bool
	// Trusted tells whose signed piece hashes are believed, besides our own.
	Trusted func(peer.ID) bool
}

// Daemon is what both daemons run on. Open makes one, Serve runs it, Close
// ends it.
type Daemon struct {
	Log      *zap.Logger
	Metrics  *prometheus.Registry
	Admin    *obs.Admin
	Store    *store.Store
	Upstream *upstream.Client
	Engine   *fetch.Engine
	Node     *p2p.Node
	Tags     *registry.Tags
	Catalog  *registry.Catalog
	Resolver *registry.Resolver
	PSK      pnet.PSK

	// StatusHook adds to Status what only one of the daemons knows. May be
	// nil; set it before Serve.
	StatusHook func(*status.Status)

	p         Params
	key       crypto.PrivKey
	id        peer.ID
	began     time.Time
	closers   []func()
	requests  atomic.Int64
	toClients atomic.Int64
	lastAsked atomic.Int64 // unix nanoseconds
}

// maxCatalog bounds the digests remembered from manifests.
const maxCatalog = 1_000_000

// Open reads keys, opens the store and binds the p2p ports; nothing is served
// or dialled yet. Errors say what is wrong, where, and what to do.
func Open(p Params) (*Daemon, error) {
	d := &Daemon{p: p, began: time.Now()}
	if err := d.open(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open() error {
	c := d.p.Config
	log, level, err := obs.NewLogger(os.Stderr, c.LogLevel, c.LogFormat)
	if err != nil {
		return err
	}
	d.Log = log
	d.Metrics = obs.NewRegistry(d.p.Name, d.p.Version)
	if c.DockerConfig != "" {
		if err := os.Setenv("DOCKER_CONFIG", c.DockerConfig); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("--data %s: %w; give a directory that this user can write to", c.Data, err)
	}
	if d.key, err = p2p.LoadOrCreateKey(filepath.Join(c.Data, "identity.key")); err != nil {
		return err
	}
	if d.id, err = peer.IDFromPrivateKey(d.key); err != nil {
		return fmt.Errorf("identity.key: %w", err)
	}
	for _, step := range []func() error{d.swarmKey, d.openContent, d.openNetwork} {
		if err := step(); err != nil {
			return err
		}
	}
	d.Admin = obs.NewAdmin(obs.AdminOptions{
		Listen: c.AdminListen, Gatherer: d.Metrics, Level: &level, Log: log,
		Status: func() any {
			st := d.Status()
			if d.StatusHook != nil {
				d.StatusHook(&st)
			}
			return st
		},
	})
	d.atClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = d.Admin.Shutdown(ctx) // what is cut off here is a status page
	})
	return nil
}

// swarmKey loads the private network key; a seeder makes one at its first start.
func (d *Daemon) swarmKey() (err error) {
	c := d.p.Config
	switch {
	case c.OpenSwarm:
		d.Log.Warn("open swarm: whoever reaches the ports may join and read every cached image")
		return nil
	case c.SwarmKey != "":
		d.PSK, err = p2p.LoadSwarmKey(c.SwarmKey)
		return err
	case !d.p.Seeder:
		return errors.New("neither --swarm-key nor --open-swarm is given: copy the seeder's swarm.key to this host and name it with --swarm-key FILE, or run both with --open-swarm")
	}
	path := filepath.Join(c.Data, "swarm.key")
	if _, serr := os.Stat(path); errors.Is(serr, os.ErrNotExist) {
		if d.PSK, err = p2p.CreateSwarmKey(path); err == nil {
			d.Log.Info("made a new swarm key; give it to every peerd with --swarm-key", zap.String("file", path), zap.String("fingerprint", p2p.Fingerprint(d.PSK)))
		}
		return err
	}
	d.PSK, err = p2p.LoadSwarmKey(path)
	return err
}

// openContent opens the store and what is remembered beside it.
func (d *Daemon) openContent() (err error) {
	c := d.p.Config
	d.Store, err = store.Open(filepath.Join(c.Data, "store"), store.Options{
		Quota: int64(c.Quota), Log: d.Log.Named("store"), Registerer: d.Metrics, Namespace: d.p.Name,
		Verify: d.signedHashes,
	})
	if err != nil {
		return err
	}
	d.atClose(func() { _ = d.Store.Close() })
	if d.Tags, err = registry.OpenTags(filepath.Join(c.Data, "tags")); err != nil {
		return err
	}
	d.Catalog = registry.NewCatalog(maxCatalog)
	regs := make([]upstream.Registry, 0, len(c.Upstreams))
	names := make([]string, 0, len(c.Upstreams))
	for _, u := range c.Upstreams {
		regs = append(regs, upstream.Registry{Name: u.Name, URL: u.URL})
		names = append(names, u.Name)
	}
	if d.Resolver, err = registry.NewResolver(names, c.Default()); err != nil {
		return err
	}
	d.Upstream, err = upstream.New(regs, upstream.Options{
		MaxConcurrent: c.MaxConcurrent, UserAgent: "samara-" + d.p.Name + "/" + d.p.Version,
		Log: d.Log.Named("upstream"), Registerer: d.Metrics, Namespace: d.p.Name,
	})
	if err != nil {
		return err
	}
	d.atClose(d.Upstream.Close)
	return nil
}

// openNetwork makes the engine and the node.
func (d *Daemon) openNetwork() (err error) {
	c := d.p.Config
	d.Engine = fetch.New(fetch.Options{
		Store: d.Store, Upstream: d.Upstream, Seeder: d.p.Seeder, Key: d.key, Zone: c.Zone,
		Trusted: d.trusted, Locate: d.locate, Seed: uint64(time.Now().UnixNano()),
		Log: d.Log.Named("fetch"), Registerer: d.Metrics, Namespace: d.p.Name,
	})
	cfg := p2p.Config{
		Key: d.key, PiecesListen: c.PiecesListen, PSK: d.PSK,
		Agent: "samara-" + d.p.Name + "/" + d.p.Version, Zone: c.Zone, Seeder: d.p.Seeder,
		TrustedNetwork: c.TrustedNetwork, BootstrapDNS: c.BootstrapDNS, MDNS: c.MDNS,
		Datastore: filepath.Join(c.Data, "dht"),
		Handler:   d.Engine, Pieces: d.Engine,
		Log: d.Log, Registerer: d.Metrics, Namespace: d.p.Name,
	}
	for _, s := range c.P2PListen {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return fmt.Errorf("--p2p-listen %s: %w; want something like /ip4/0.0.0.0/tcp/4001", s, err)
		}
		cfg.Listen = append(cfg.Listen, a)
	}
	if cfg.Bootstrap, err = peers(c.Bootstrap); err != nil {
		return err
	}
	if len(c.Advertise) > 0 {
		if cfg.Advertise, cfg.PiecesAdvertise, err = advertised(c); err != nil {
			return err
		}
	}
	if d.Node, err = p2p.New(cfg); err != nil {
		return err
	}
	d.atClose(func() {
		if err := d.Node.Close(); err != nil {
			d.Log.Warn("closing the node", zap.Error(err))
		}
	})
	return nil
}

// peers reads --bootstrap.
func peers(list []string) ([]peer.AddrInfo, error) {
	var out []peer.AddrInfo
	for _, s := range list {
		ai, err := peer.AddrInfoFromString(s)
		if err != nil {
			return nil, fmt.Errorf("--bootstrap %s: %w; want something like /ip4/10.0.0.7/tcp/4001/p2p/12D3KooW…", s, err)
		}
		out = append(out, *ai)
	}
	return out, nil
}

// advertised turns --advertise into libp2p addresses and a pieces address with
// the ports that are listened on.
func advertised(c config.Common) ([]multiaddr.Multiaddr, string, error) {
	var out []multiaddr.Multiaddr
	for _, host := range c.Advertise {
		kind := "dns"
		if ip := net.ParseIP(host); ip != nil {
			kind = "ip6"
			if ip.To4() != nil {
				kind = "ip4"
			}
		}
		for _, l := range c.P2PListen {
			a, err := multiaddr.NewMultiaddr(l)
			if err != nil {
				return nil, "", fmt.Errorf("--p2p-listen %s: %w", l, err)
			}
			port, err := a.ValueForProtocol(multiaddr.P_TCP)
			if err != nil {
				return nil, "", fmt.Errorf("--p2p-listen %s: %w", l, err)
			}
			adv, err := multiaddr.NewMultiaddr("/" + kind + "/" + host + "/tcp/" + port)
			if err != nil {
				return nil, "", fmt.Errorf("--advertise %s: %w", host, err)
			}
			out = append(out, adv)
		}
	}
	_, port, err := net.SplitHostPort(c.PiecesListen)
	if err != nil {
		return nil, "", fmt.Errorf("--pieces-listen %s: %w", c.PiecesListen, err)
	}
	return out, net.JoinHostPort(c.Advertise[0], port), nil
}

func (d *Daemon) trusted(p peer.ID) bool {
	return d.p.Trusted != nil && d.p.Trusted(p) || d.p.Seeder && p == d.id
}

// signedHashes tells the store what the pieces of a partial blob must hash to,
// by the runs of trusted signers that were kept with it.
func (d *Daemon) signedHashes(dg digest.Digest, size int64, envelopes [][]byte) func(int) (piece.Hash, bool) {
	g, err := piece.GeometryOf(size)
	if err != nil {
		return nil
	}
	l := piece.NewList(dg, g)
	for _, env := range envelopes {
		r, signer, err := piece.Open(env)
		if err != nil || !d.trusted(signer) || r.Digest != dg || r.Size != size {
			continue
		}
		_, _ = l.Add(r, env) // a run that contradicts another adds nothing
	}
	return l.Hash
}

// locate finds the size and source of a digest that a peer asks for.
func (d *Daemon) locate(dg digest.Digest) (fetch.Want, bool) {
	k, ok := d.Catalog.Find(dg)
	if !ok {
		return fetch.Want{}, false
	}
	return fetch.Want{Digest: dg, Size: k.Size, Source: fetch.Source{Upstream: k.Name.Upstream, Repository: k.Name.Repository}}, true
}

// learnStored fills the catalogue from the manifests in the store.
func (d *Daemon) learnStored() {
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
		if _, err := d.Catalog.Learn(n, in.Digest, mediaType, content); err != nil {
			d.Log.Warn("a stored manifest is not understood", zap.Stringer("digest", in.Digest), zap.Error(err))
		}
	}
}

// Account counts a client's request; it is the registry handler's hook.
func (d *Daemon) Account(bytes int64) {
	d.requests.Add(1)
	d.toClients.Add(bytes)
	d.lastAsked.Store(time.Now().UnixNano())
}

// Serve starts the node and serves h on --listen until ctx ends; then requests
// under way may finish within --shutdown-grace.
func (d *Daemon) Serve(ctx context.Context, h http.Handler) error {
	c := d.p.Config
	ln, err := obs.Listen(ctx, "--listen", c.Listen)
	if err != nil {
		return err
	}
	if err := d.Admin.Start(ctx); err != nil {
		ln.Close()
		return err
	}
	d.learnStored()
	life, stop := context.WithCancel(context.Background())
	defer stop()
	if err := d.Node.Start(life); err != nil {
		ln.Close()
		return err
	}
	d.Engine.Start(d.Node)
	d.atClose(d.Engine.Close)
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return life },
		ErrorLog:          zap.NewStdLog(d.Log.Named("http")),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	d.Log.Info("serving", zap.String("daemon", d.p.Name), zap.String("version", d.p.Version),
		zap.Stringer("listen", ln.Addr()), zap.String("admin", d.Admin.Addr()), zap.Stringer("peer", d.id), zap.String("data", c.Data))
	select {
	case err := <-failed:
		return fmt.Errorf("--listen %s: %w", c.Listen, err)
	case <-ctx.Done():
	}
	d.Log.Info("stopping: requests under way may finish", zap.Duration("grace", c.ShutdownGrace))
	grace, cancel := context.WithTimeout(context.Background(), c.ShutdownGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		d.Log.Warn("requests were cut off: the grace is over", zap.Error(err))
		stop() // bodies end with a FIN short of their length
		_ = srv.Close()
	}
	<-failed
	return nil
}

// atClose runs f at Close, the last one first.
func (d *Daemon) atClose(f func()) { d.closers = append(d.closers, f) }

// Close ends everything that Open and Serve started, and waits for it.
func (d *Daemon) Close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
	d.closers = nil
	if d.Log != nil {
		_ = d.Log.Sync() // stderr cannot always be synced
	}
}
