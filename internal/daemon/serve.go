package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Account counts a client's request; it is the registry handler's hook.
func (d *Daemon) Account(bytes int64) {
	d.requests.Add(1)
	d.toClients.Add(bytes)
	d.lastAsked.Store(time.Now().UnixNano())
}

// Secure makes Serve speak TLS on --listen. Call it before.
func (d *Daemon) Secure(c *tls.Config) { d.ln = tls.NewListener(d.ln, c) }

// Serve starts the node and serves h on --listen until ctx ends; then requests
// under way may finish within --shutdown-grace. Bodies that do not are cut off
// short of their length, with a FIN (contract 14, 15).
func (d *Daemon) Serve(ctx context.Context, h http.Handler) error {
	c := d.p.Config
	d.learnStored()
	life, stop := context.WithCancel(context.Background())
	defer stop()
	if err := d.Node.Start(context.Background()); err != nil { // Close ends it, after the engine took leave
		return err
	}
	d.Engine.Start(d.Node)
	d.atClose(d.Engine.Close)
	if err := d.startScrub(); err != nil {
		return err
	}
	requests := &counted{h: h}
	srv := &http.Server{
		Handler:           requests,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return life },
		ErrorLog:          zap.NewStdLog(d.Log.Named("http")),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(d.ln) }()
	d.notReady("")
	d.Log.Info("serving", zap.String("daemon", d.p.Name), zap.String("version", d.p.Version),
		zap.Stringer("listen", d.ln.Addr()), zap.String("admin", d.Admin.Addr()), zap.Stringer("peer", d.id), zap.String("data", c.Data))
	select {
	case err := <-failed:
		return fmt.Errorf("--listen %s: %w", c.Listen, err)
	case <-ctx.Done():
	}
	d.notReady("stopping")
	d.Log.Info("stopping: requests under way may finish", zap.Duration("grace", c.ShutdownGrace))
	grace, cancel := context.WithTimeout(context.Background(), c.ShutdownGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		d.Log.Warn("requests were cut off: the grace is over", zap.Error(err))
		stop()
		_ = srv.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		d.Log.Warn("the registry API ended badly", zap.Error(err))
	}
	requests.end()
	return nil
}

// counted waits for requests, which http.Server.Close does not.
type counted struct {
	h http.Handler

	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// ServeHTTP implements http.Handler.
func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	c.wg.Add(1)
	c.mu.Unlock()
	defer c.wg.Done()
	c.h.ServeHTTP(w, r)
}

func (c *counted) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.wg.Wait()
}
