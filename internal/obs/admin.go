package obs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// checkTimeout bounds all readiness checks together.
const checkTimeout = 3 * time.Second

// Check tells whether one thing that readiness needs is there. Its error is
// shown to operators.
type Check func(ctx context.Context) error

// AdminOptions configures NewAdmin. Only Listen is required.
type AdminOptions struct {
	Listen string // HOST:PORT
	Flag   string // what set it, for errors; default "--admin-listen"
	// ListenWith makes the listener; nil: Listen.
	ListenWith func(ctx context.Context, flag, addr string) (net.Listener, error)
	Gatherer   prometheus.Gatherer // nil: no /metrics
	Level      *zap.AtomicLevel    // nil: no /v1/log-level
	Status     func() any          // value for /v1/status, called per request; nil: no /v1/status
	Log        *zap.Logger         // nil: no logs
}

// Admin is the HTTP server for operators. Serve it with Start, end it with
// Shutdown.
type Admin struct {
	o      AdminOptions
	mux    *http.ServeMux
	server *http.Server
	ln     net.Listener
	done   chan struct{}

	mu     sync.Mutex
	checks map[string]Check
}

// NewAdmin makes a server that does not listen yet.
func NewAdmin(o AdminOptions) *Admin {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Flag == "" {
		o.Flag = "--admin-listen"
	}
	if o.ListenWith == nil {
		o.ListenWith = Listen
	}
	a := &Admin{o: o, mux: http.NewServeMux(), checks: map[string]Check{}, done: make(chan struct{})}
	a.server = &http.Server{
		Handler:           a.mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      60 * time.Second, // a 30 s CPU profile fits
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(o.Log.Named("admin")),
	}
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	a.mux.HandleFunc("GET /readyz", a.ready)
	if o.Gatherer != nil {
		a.mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 30 * time.Second}))
	}
	if o.Level != nil {
		a.mux.HandleFunc("GET /v1/log-level", a.getLevel)
		a.mux.HandleFunc("PUT /v1/log-level", a.putLevel)
	}
	if o.Status != nil {
		a.mux.HandleFunc("GET /v1/status", a.status)
	}
	return a
}

// AddCheck makes readiness depend on c. A check of the same name is replaced.
func (a *Admin) AddCheck(name string, c Check) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checks[name] = c
}

// Handle adds a page of the daemon's own. Call it before Start.
func (a *Admin) Handle(pattern string, h http.Handler) { a.mux.Handle(pattern, h) }

// Start listens and serves until Shutdown. The error is a *ListenError.
func (a *Admin) Start(ctx context.Context) error {
	ln, err := a.o.ListenWith(ctx, a.o.Flag, a.o.Listen)
	if err != nil {
		return err
	}
	a.ln = ln
	if loopback(ln.Addr()) { // profiles show memory: never to the network
		a.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		a.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		a.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	go func() {
		defer close(a.done)
		if err := a.server.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			a.o.Log.Error("admin server ended", zap.Error(err))
		}
	}()
	return nil
}

// Addr is where it listens; "" before Start.
func (a *Admin) Addr() string {
	if a.ln == nil {
		return ""
	}
	return a.ln.Addr().String()
}

// Shutdown lets requests finish until ctx ends, then closes their
// connections. It returns once nothing of the server runs any more, and may
// be called without Start.
func (a *Admin) Shutdown(ctx context.Context) error {
	if a.ln == nil {
		return nil
	}
	err := a.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, a.server.Close())
	}
	<-a.done
	return err
}

// ready answers 200 when every check passes and 503 otherwise, one line each.
func (a *Admin) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	lines, ok := a.runChecks(ctx)
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	writeText(w, code, strings.Join(lines, "\n")+"\n")
}

// Ready tells whether every check passes now, as /readyz would.
func (a *Admin) Ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, ok := a.runChecks(ctx)
	return ok
}

func (a *Admin) runChecks(ctx context.Context) (lines []string, ok bool) {
	a.mu.Lock()
	checks := make(map[string]Check, len(a.checks))
	for n, c := range a.checks {
		checks[n] = c
	}
	a.mu.Unlock()
	ok = true
	for name, c := range checks {
		line := name + ": ok"
		if err := c(ctx); err != nil {
			ok = false
			line = name + ": " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	if ok {
		lines = append(lines, "ready")
	} else {
		lines = append(lines, "not ready")
	}
	return lines, ok
}

func (a *Admin) status(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.o.Status()) }

type level struct {
	Level string `json:"level"`
}

func (a *Admin) getLevel(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, level{a.o.Level.String()})
}

// putLevel takes {"level":"debug"} or just the word.
func (a *Admin) putLevel(w http.ResponseWriter, r *http.Request) {
	var buf [256]byte
	n, _ := io.ReadFull(r.Body, buf[:]) // shorter is the rule; a broken body parses as no level
	text := strings.TrimSpace(string(buf[:n]))
	var l level
	if json.Unmarshal([]byte(text), &l) == nil && l.Level != "" {
		text = l.Level
	}
	parsed, err := zap.ParseAtomicLevel(strings.Trim(text, `"`))
	if err != nil || text == "" { // zap takes "" for info
		writeText(w, http.StatusBadRequest, fmt.Sprintf("%.40q is not a level; send debug, info, warn or error\n", text))
		return
	}
	was := a.o.Level.Level()
	a.o.Level.SetLevel(parsed.Level())
	a.o.Log.Info("log level changed", zap.Stringer("was", was), zap.Stringer("is", parsed.Level()))
	writeJSON(w, level{a.o.Level.String()})
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // nobody is left to tell
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeText(w, http.StatusInternalServerError, err.Error()+"\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n')) // nobody is left to tell
}

func loopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().IsLoopback()
}
