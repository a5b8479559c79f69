package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/backup"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/datadir"
	"github.com/samara-p2p/samara/internal/handover"
	"github.com/samara-p2p/samara/internal/obs"
	"github.com/samara-p2p/samara/internal/scrub"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Params say which daemon is to be opened.
type Params struct {
	Name    string // "seeder" or "peerd"
	Version string
	Config  config.Common
	// Warnings are the configuration's own; they are logged.
	Warnings []config.Problem
	Seeder   bool
	Turn     *handover.Turn
	// Prefixes are quotas for what is fetched from repositories.
	Prefixes []store.PrefixQuota
	// Switch and Gap are a mirror's deadlines; 0: those of fetch.Options.
	Switch, Gap time.Duration
	// Trusted tells whose signed piece hashes are believed, besides our own.
	// It is called from Open on. May be nil.
	Trusted func(peer.ID) bool
	// Durable makes what keeps content for good, if not the store. It is called
	// from Open, when the store is there. May be nil, as what it returns.
	Durable func(context.Context, *Daemon) (Durable, error)
	// Status adds to the status page what only one of the daemons knows. It is
	// called from Open on. May be nil.
	Status func(*status.Status)
}

// Durable is a fetch.Durable that is closed after the engine.
type Durable interface {
	fetch.Durable
	Close()
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
	// ReferrerTags remember lists of referrers as Tags do tags.
	ReferrerTags *registry.Tags
	Catalog      *registry.Catalog
	Resolver     *registry.Resolver
	PSK          pnet.PSK

	p       Params
	key     crypto.PrivKey
	id      peer.ID
	began   time.Time
	level   zap.AtomicLevel
	tls     *tls.Config // of --listen; nil: none
	listen  net.Addr
	phase   atomic.Pointer[string] // why it is not ready; nil when it is
	scrub   atomic.Pointer[scrub.Scrubber]
	closers []func()
	beside  []func(context.Context)
	tracer  trace.Tracer // nil: no traces

	requests  atomic.Int64
	toClients atomic.Int64
	lastAsked atomic.Int64 // unix nanoseconds
}

// Run runs turns of a daemon until ctx ends, or another process has taken over.
// Errors are those of serve, or say what is wrong with what the process was
// started with.
func Run(ctx context.Context, name string, c config.Common, serve func(context.Context, *handover.Turn) error) error {
	log, _, err := obs.NewLogger(os.Stderr, c.LogLevel, c.LogFormat)
	if err != nil {
		return err
	}
	p, err := handover.New(handover.Options{Name: name, Log: log, Grace: c.ShutdownGrace})
	if err != nil {
		return err
	}
	return p.Run(ctx, serve)
}

// Open reads keys, opens the store and binds every port; only the admin server
// answers yet, and nobody is dialled. A process that is to take over waits for
// the store when all else is known to be right. Errors say what is wrong, where,
// and what to do.
func Open(ctx context.Context, p Params) (*Daemon, error) {
	d := &Daemon{p: p, began: time.Now()}
	if err := d.open(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context) (err error) {
	c := d.p.Config
	if d.Log, d.level, err = obs.NewLogger(os.Stderr, c.LogLevel, c.LogFormat); err != nil {
		return err
	}
	for _, w := range d.p.Warnings {
		d.Log.Warn("configuration", zap.String("where", w.Where), zap.String("what", w.What), zap.String("remedy", w.Fix))
	}
	d.Metrics = obs.NewRegistry(d.p.Name, d.p.Version)
	d.notReady("starting")
	if err := d.openTraces(ctx); err != nil {
		return err
	}
	d.p.Turn.Register(d.Metrics)
	for _, step := range []func(context.Context) error{d.openData, d.openSwarmKey, d.takeOver, d.openContent, d.openNetwork, d.openPorts} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// openData makes the data directory and the identity in it.
func (d *Daemon) openData(context.Context) (err error) {
	dir := d.p.Config.Data
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return explainData(dir, err)
	}
	if err := backup.Finished(dir); err != nil {
		return err
	}
	if err := datadir.Claim(dir); err != nil {
		if errors.Is(err, datadir.ErrVersion) {
			return err // it says what to do
		}
		return explainData(dir, err)
	}
	path := filepath.Join(dir, "identity.key")
	if d.key, err = p2p.LoadOrCreateKey(path); err != nil {
		return explainData(dir, err)
	}
	if d.id, err = peer.IDFromPrivateKey(d.key); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// openSwarmKey loads the private network key; a seeder makes one at its first
// start.
func (d *Daemon) openSwarmKey(context.Context) (err error) {
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
		return explainData(c.Data, err)
	}
	d.PSK, err = p2p.LoadSwarmKey(path)
	return err
}

// explainData says what to do about a data directory that takes no files.
func explainData(dir string, err error) error {
	fix := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		fix = "its disk is full: free some space, or give --data on another disk"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		fix = "give --data a directory that this user can read and write"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		fix = "give --data a directory"
	default:
		return fmt.Errorf("--data %s: %w", dir, err)
	}
	return fmt.Errorf("--data %s: %w; %s", dir, err, fix)
}

// takeOver waits for the process before this one, if there is any, to let go of
// the store. Whatever can be found wrong before is: that process goes on then.
func (d *Daemon) takeOver(ctx context.Context) error {
	if !d.p.Turn.Follows() {
		return nil
	}
	if _, err := d.p.Turn.Bind(ctx, "--listen", d.p.Config.Listen); err != nil {
		return err
	}
	return d.p.Turn.Await(ctx)
}

// openPorts binds the registry API and starts the admin server.
func (d *Daemon) openPorts(ctx context.Context) (err error) {
	c := d.p.Config
	if d.listen, err = d.p.Turn.Bind(ctx, "--listen", c.Listen); err != nil {
		return err
	}
	d.Admin = obs.NewAdmin(obs.AdminOptions{
		Listen: c.AdminListen, Gatherer: d.Metrics, Level: &d.level, Log: d.Log, ListenWith: d.p.Turn.Listen,
		Status: func() any { return d.Status() },
	})
	d.Admin.AddCheck("serving", func(context.Context) error {
		if why := d.phase.Load(); why != nil {
			return errors.New(*why)
		}
		return nil
	})
	d.openMetrics()
	if err := d.Admin.Start(ctx); err != nil {
		return err
	}
	d.atClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = d.Admin.Shutdown(ctx) // what is cut off here is a status page
	})
	return nil
}

// notReady says why /readyz fails; "" makes it succeed.
func (d *Daemon) notReady(why string) {
	if why == "" {
		d.phase.Store(nil)
		return
	}
	d.phase.Store(&why)
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
