package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Options of a Home. Data, Objects, Store and IsLocal are required.
type Options struct {
	Data    string // the seeder's data directory
	Objects *objectstore.Client
	Store   *store.Store
	// IsLocal tells whether an upstream's name means the local repositories.
	IsLocal func(upstream string) bool
	// CopyPulled has what is pulled through the seeder copied, too.
	CopyPulled bool

	Log        *zap.Logger // default: none
	Registerer prometheus.Registerer
	Namespace  string
}

// Home is the bucket of one seeder. It is a fetch.Durable and, but for its
// Open, a local.Durable. Safe for concurrent use.
type Home struct {
	o      Options
	log    *zap.Logger
	m      *metrics
	holder string // this process, in the claim
	paths  [64]sync.Mutex
	copies queue
	sizes  sizes
	work   chan struct{} // the journal has grown
	alarm  chan struct{} // a request has failed, the first after others went well
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	id      string // of the bucket
	claimed bool   // the bucket has been seen to be ours
	refused error  // it is not
	failed  error  // the last request that did
	since   time.Time
	pending map[string]int             // the journal: paths, and how many hold them at this moment
	bad     map[digest.Digest]bool     // copies that were wrong
	known   map[digest.Digest]struct{} // copies that were seen in the bucket
	syncing atomic.Bool
}

const (
	stateName    = "objectstore" // below Options.Data
	registryName = "registry"

	// startPatience is how long an object store that does not answer is waited
	// for, where a seeder cannot start without.
	startPatience = 20 * time.Second
	watchEvery    = 30 * time.Second
	watchFailing  = 2 * time.Second
	// maxKnown bounds the digests that are remembered.
	maxKnown = 50_000
)

// Open takes hold of the bucket, and fills an empty data directory from it.
// Where the bucket does not answer, a directory that is not empty is enough to
// start with. Errors say what is wrong, where, and what to do.
func Open(ctx context.Context, o Options) (*Home, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	h := &Home{
		o: o, log: o.Log, holder: newID(), work: make(chan struct{}, 1), alarm: make(chan struct{}, 1),
		pending: make(map[string]int), bad: make(map[digest.Digest]bool), known: make(map[digest.Digest]struct{}),
	}
	h.copies.init()
	if err := h.loadState(); err != nil {
		return nil, fmt.Errorf("--object-store: %w", err)
	}
	if err := h.start(ctx); err != nil {
		return nil, fmt.Errorf("--object-store %s: %w", o.Objects.Location(), err)
	}
	h.m = newMetrics(h, o.Registerer, o.Namespace)
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.wg.Go(h.watch)
	h.wg.Go(h.mend)
	for range copiers {
		h.wg.Go(h.copy)
	}
	return h, nil
}

// Close ends what Open started and waits for it. What is queued is gone on with
// by the next process.
func (h *Home) Close() {
	h.cancel()
	h.wg.Wait()
	h.o.Objects.Close()
	if err := h.sizes.f.Close(); err != nil {
		h.log.Warn("close sizes of content", zap.Error(err))
	}
}

func (h *Home) state(name ...string) string {
	return filepath.Join(append([]string{h.o.Data, stateName}, name...)...)
}

// dir is where the local repositories' links are.
func (h *Home) dir(name ...string) string {
	return filepath.Join(append([]string{h.o.Data, registryName}, name...)...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// usable is why nothing may be written now.
func (h *Home) usable() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.refused != nil:
		return h.refused
	case !h.claimed:
		return errors.Join(errors.New("the bucket has not been seen to be this seeder's yet"), h.failed)
	}
	return nil
}

// note remembers how a request ended.
func (h *Home) note(err error) error {
	if err == nil || objectstore.KindOf(err) == objectstore.NotFound {
		h.mu.Lock()
		h.failed = nil
		h.mu.Unlock()
		return err
	}
	if objectstore.KindOf(err) == objectstore.Canceled {
		return err
	}
	h.mu.Lock()
	first := h.failed == nil
	if first {
		h.since = time.Now()
	}
	h.failed = err
	h.mu.Unlock()
	if first {
		h.log.Warn("the object store fails", zap.Error(err))
		select {
		case h.alarm <- struct{}{}:
		default:
		}
	}
	return err
}

// refuse is the answer to a client whose push cannot be kept.
func (h *Home) refuse(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	h.log.Warn("a push is refused: the object store does not keep it", zap.Error(err))
	return unavailable(err)
}

func unavailable(err error) error {
	return &registry.Error{Status: http.StatusServiceUnavailable, Code: registry.CodeUnavailable, RetryAfter: 5 * time.Second,
		Message: "the registry's object store does not work at the moment; try again, or tell the registry's operator, whose log says why", Err: err}
}

// Status is what can be said of the bucket.
type Status struct {
	Location string
	Error    string // why it does not work; "" if it does
	Since    time.Time
	Copies   int  // waiting to be copied
	Pending  int  // links in which disk and bucket may differ
	Syncing  bool // what was here before is being copied
}

// Status tells how the bucket is.
func (h *Home) Status() Status {
	s := Status{Location: h.o.Objects.Location().String(), Copies: h.copies.len(), Syncing: h.syncing.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Pending = len(h.pending)
	if err := errors.Join(h.refused, h.failed); err != nil {
		s.Error, s.Since = err.Error(), h.since
	}
	return s
}
