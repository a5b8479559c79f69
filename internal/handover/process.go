package handover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Options of a Process.
type Options struct {
	Name string // of the program, for logs
	Log  *zap.Logger
	// Grace bounds how long requests may take to finish that cannot be handed
	// over: at a stop all of them, else those that change something.
	Grace time.Duration
}

// Process is one process of a daemon. Run is its life.
type Process struct {
	o       Options
	log     *zap.Logger
	metrics metrics
	sockets sockets
	front   *front
	link    *link // to the process before this one; nil: there is none
	before  int   // its number
	hup     chan os.Signal

	listening bool
	relaying  sync.WaitGroup // takes connections from link
}

// step is called where a process may die, for tests.
var step = func(name string) {}

// Turn is the part of a process in which it serves by itself: almost always the
// only one. Its methods are for one goroutine.
type Turn struct {
	p     *Process
	used  map[socketTag]bool
	main  *net.TCPListener
	frees chan *successor // has the process that takes over
	next  *successor      // set when the turn has ended for it
}

// Service is what a turn serves.
type Service struct {
	Handler http.Handler // of all requests
	// Rest answers ranges of bodies that were begun before: nobody is asked who
	// the client is.
	Rest http.Handler
	// TLS, or nil. A daemon has it in all its turns or in none.
	TLS *tls.Config
	// Started is called when requests are answered.
	Started func()
	// Stopping is called with why that is to end.
	Stopping func(why string)
	// Lingers tells of requests after which a client that goes on with its pull
	// asks soon for more, of this very process. While they come, a process that
	// is to stop keeps its sockets open: within the grace, until for a tenth of it
	// none has come. nil: it closes them at once.
	Lingers func(*http.Request) bool
}

// relayFor bounds how long an old process relays: a layer of 100 GiB over a
// link of 100 Mbit/s takes 2.4 hours.
const relayFor = 6 * time.Hour

// New makes a process that serves nothing yet. It takes the sockets that the
// service manager, or the process before this one, passes.
func New(o Options) (*Process, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	p := &Process{o: o, log: o.Log.Named("handover"), metrics: newMetrics(o.Name), front: newFront(o.Log), hup: make(chan os.Signal, 1)}
	var err error
	if p.link, p.before, err = inherited(); err == nil && p.link == nil {
		err = p.sockets.takeSystemd()
	} else if err == nil {
		err = p.takeOffer()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// offerWithin bounds the wait for what the old process says first.
const offerWithin = 10 * time.Second

func (p *Process) takeOffer() error {
	ctx, cancel := context.WithTimeout(context.Background(), offerWithin)
	defer cancel()
	m, err := p.link.receive(ctx)
	switch {
	case errors.Is(err, io.EOF): // it died first
		p.link.close()
		p.link = nil
		return buried(ctx, p.before)
	case err != nil:
		return fmt.Errorf("hand-over: the process before this one says nothing: %w", err)
	case m.Kind != msgOffer || m.Version != version:
		m.close()
		return fmt.Errorf("hand-over: the process before this one speaks version %d of it, this one knows %d: stop that one and start this one", m.Version, version)
	}
	return p.sockets.takeOffer(m)
}

// Run gives the process its turns, and returns when it has ended, or another has
// taken over and everything that was under way is finished. serve opens what is
// to be served, calls the turn's methods in the order in which they are declared,
// and closes everything again before it returns.
func (p *Process) Run(ctx context.Context, serve func(context.Context, *Turn) error) error {
	defer p.close()
	signal.Notify(p.hup, syscall.SIGHUP)
	defer signal.Stop(p.hup)
	for {
		t := &Turn{p: p, used: make(map[socketTag]bool), frees: make(chan *successor, 1)}
		err := serve(ctx, t)
		if t.next == nil {
			return err
		}
		if err != nil { // it ended for a successor, who will do better or not
			p.log.Warn("what was served did not end well", zap.Error(err))
		}
		if p.release(ctx, t.next) {
			p.finish(ctx, t.next)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		p.metrics.failed.Inc()
	}
}

// watch starts a new process at each SIGHUP, until one is ready to take over. It
// runs while the turn serves, and its sockets do not change; a signal that came
// before has waited. The function that it returns ends it.
func (t *Turn) watch(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { t.prepareNext(ctx) })
	return func() {
		cancel()
		wg.Wait()
		select {
		case n := <-t.frees: // found in vain
			n.abandon("it ends")
		default:
		}
	}
}

func (t *Turn) prepareNext(ctx context.Context) {
	p := t.p
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.hup:
		}
		notifyReloading()
		n, err := p.prepare(ctx)
		if err == nil {
			t.frees <- n
			return
		}
		if ctx.Err() != nil {
			return
		}
		p.metrics.failed.Inc()
		p.log.Error("no hand-over: this process goes on", zap.Error(err))
		notifyReady("no hand-over: " + err.Error())
	}
}

// close gives up sockets and the rest. Whoever still waits for an answer has his
// connection closed.
func (p *Process) close() {
	p.front.stop(context.Background(), 0)
	p.front.relays.Close() // the server's, where there was one
	if p.link != nil {
		_ = p.link.c.SetReadDeadline(time.Unix(1, 0))
		p.relaying.Wait()
		p.link.close()
	}
	p.sockets.close()
}

// Follows tells whether this turn is to take over from another process.
func (t *Turn) Follows() bool { return t.p.link != nil && !t.p.listening }

// Listen is a listener for what a setting asks for. Closing it leaves the socket
// open for the next turn or process. Errors: *obs.ListenError.
func (t *Turn) Listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	ln, err := t.p.sockets.bind(ctx, flag, addr)
	if err != nil {
		return nil, err
	}
	t.used[socketTag{flag, addr}] = true
	return duplicate(ln)
}

// Bind makes what Serve will listen on. Errors: *obs.ListenError.
func (t *Turn) Bind(ctx context.Context, flag, addr string) (net.Addr, error) {
	ln, err := t.p.sockets.bind(ctx, flag, addr)
	if err != nil {
		return nil, err
	}
	t.used[socketTag{flag, addr}] = true
	t.main = ln
	return ln.Addr(), nil
}

// releaseWithin bounds the wait of a new process for the old one to let go of
// its data, beyond the grace.
const releaseWithin = time.Minute

// Await tells the process before this one that nothing is wrong so far, and
// waits until it has let go of its data. Without one it returns at once. An old
// process that dies meanwhile is as good as one that lets go.
func (t *Turn) Await(ctx context.Context) error {
	p := t.p
	if !t.Follows() {
		return nil
	}
	step("new-ready")
	_ = p.link.send(message{Kind: msgReady, Version: version}) // a dead process shows below
	ctx, cancel := context.WithTimeoutCause(ctx, p.o.Grace+releaseWithin, errors.New("it does not let go of its data"))
	defer cancel()
	m, err := p.link.receive(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("hand-over: the process before this one: %w", context.Cause(ctx))
	case err != nil:
		p.log.Warn("the process before this one is gone: its connections are, too", zap.Error(err))
		if err := buried(ctx, p.before); err != nil {
			return err
		}
	case m.Kind == msgReleased:
		p.metrics.frozen = m.Frozen
	default:
		m.close()
		return fmt.Errorf("hand-over: the process before this one goes on itself: %s", m.Why)
	}
	step("new-released")
	return nil
}

// Serve answers requests until ctx ends or another process is to take over. All
// sockets have to be bound.
func (t *Turn) Serve(ctx context.Context, s Service) error {
	p := t.p
	if err := p.sockets.settle(t.used); err != nil {
		return err
	}
	st := newStage(s.Handler, s.Rest)
	st.lingers = s.Lingers
	p.front.tls.Store(s.TLS)
	p.front.begin(st)
	follows := t.Follows()
	if !p.listening {
		p.front.listen(t.main, s.TLS != nil)
		p.listening = true
	}
	if follows {
		step("new-listening")
		p.took()
	} else { // else the old process says so, while it is the main one
		notifyReady("serving")
	}
	s.Started()
	end := t.watch(ctx)
	defer end()
	select {
	case err := <-p.front.failed:
		s.Stopping("the registry API has failed")
		p.front.stop(ctx, p.o.Grace)
		return serverError(t.main.Addr().String(), err)
	case <-ctx.Done():
		notifyStopping()
		s.Stopping("stopping")
		t.stop(s)
	case t.next = <-t.frees:
		t.next.frozen = time.Now()
		s.Stopping("handing over")
		p.log.Info("handing over", zap.Int("to", t.next.pid()))
		step("old-freezing")
		p.front.freeze(p.o.Grace)
	}
	return nil
}

// stop ends the front in good order.
func (t *Turn) stop(s Service) {
	p := t.p
	p.log.Info("stopping: requests under way may finish", zap.Duration("grace", p.o.Grace))
	began := time.Now()
	if s.Lingers != nil {
		ctx, cancel := context.WithTimeout(context.Background(), p.o.Grace)
		p.front.quiet(ctx, p.o.Grace/10)
		cancel()
	}
	p.front.stop(context.Background(), max(0, p.o.Grace-time.Since(began)))
}

// took tells the process before this one that it may relay, and takes its
// connections.
func (p *Process) took() {
	p.metrics.taken.Inc()
	pause := p.metrics.paused()
	p.log.Info("took over: the process before this one finishes what it has under way", zap.Duration("pause", pause))
	if err := p.link.send(message{Kind: msgServing, Version: version}); err != nil {
		return // it is gone
	}
	step("new-serving")
	p.relaying.Go(func() {
		for {
			m, err := p.link.receive(context.Background())
			if err != nil {
				p.log.Info("the process before this one has ended")
				return
			}
			if m.Kind != msgConn || len(m.files) != 1 {
				m.close()
				continue
			}
			if err := p.front.relays.add(m.files[0]); err != nil {
				p.log.Warn("a connection of the process before this one", zap.Error(err))
			}
		}
	})
}
