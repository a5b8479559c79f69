package daemon

import (
	"context"
	"crypto/tls"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/handover"
	"github.com/samara-p2p/samara/internal/tracing"
)

// ToClients is how many bytes clients were given.
func (d *Daemon) ToClients() int64 { return d.toClients.Load() }

// Account counts a client's request; it is the registry handler's hook.
func (d *Daemon) Account(bytes int64) {
	d.requests.Add(1)
	d.toClients.Add(bytes)
	d.lastAsked.Store(time.Now().UnixNano())
}

// Secure makes Serve speak TLS on --listen. Call it before.
func (d *Daemon) Secure(c *tls.Config) { d.tls = c }

// Beside has f run while Serve serves: from when the engine has started until
// before it is closed. Its context ends then. Call it before Serve.
func (d *Daemon) Beside(f func(context.Context)) { d.beside = append(d.beside, f) }

func (d *Daemon) startBeside() {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, f := range d.beside {
		wg.Go(func() { f(ctx) })
	}
	d.atClose(func() { stop(); wg.Wait() })
}

// Handlers are what Serve answers requests with.
type Handlers struct {
	Main http.Handler
	// Rest answers ranges of bodies that Main began, in this process or the one
	// before, without asking again who may have them.
	Rest http.Handler
	// Lingers is handover.Service's.
	Lingers func(*http.Request) bool
}

// Serve starts the node and answers requests on --listen until ctx ends or
// another process takes over. In the first case requests under way may finish
// within --shutdown-grace. Bodies that do not are cut off short of their length,
// with a FIN (contract 14, 15).
func (d *Daemon) Serve(ctx context.Context, h Handlers) error {
	d.learnStored()
	if err := d.Node.Start(context.Background()); err != nil { // Close ends it, after the engine took leave
		return err
	}
	d.Engine.Start(d.Node)
	d.atClose(d.Engine.Close)
	if err := d.startScrub(); err != nil {
		return err
	}
	d.startBeside()
	return d.p.Turn.Serve(ctx, handover.Service{
		Handler: tracing.Handler(d.tracer, h.Main), Rest: h.Rest, TLS: d.tls, Lingers: h.Lingers, Stopping: d.notReady,
		Started: func() {
			d.notReady("")
			d.Log.Info("serving", zap.String("daemon", d.p.Name), zap.String("version", d.p.Version),
				zap.Stringer("listen", d.listen), zap.String("admin", d.Admin.Addr()), zap.Stringer("peer", d.id), zap.String("data", d.p.Config.Data))
		},
	})
}
