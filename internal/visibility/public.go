package visibility

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// How long verdicts hold.
const (
	publicFor  = 15 * time.Minute
	privateFor = time.Minute
	absentFor  = 10 * time.Second // that a repository does not have a digest
	askTimeout = 8 * time.Second  // of a question, for all who wait for it

	// How long those that can tell are waited for before something else stands
	// in: an older verdict, or the word of peers. Who was silent before is only
	// glanced at, and not asked again for a while.
	patience    = time.Second
	glance      = 300 * time.Millisecond
	silentFor   = 5 * time.Second
	hearTimeout = 5 * time.Second // of asking peers, for all who wait for it

	maxRepositories = 100_000
	saveEvery       = time.Minute
	saveNew         = time.Second
)

// Options of Public. Ask is required.
type Options struct {
	// Ask is nil where anybody may have the target at its upstream now. Errors
	// have an upstream.Kind: Denied says that credentials are needed, NotFound
	// that there is no such thing, Offline that nobody may be asked; any other
	// says nothing.
	Ask func(ctx context.Context, n registry.Name, t upstream.Target) error
	// Seen is when a repository last gave something to whoever asked; zero where
	// that is not known. May be nil.
	Seen func(n registry.Name) time.Time
	// Has tells whether a digest is kept as a repository's. It counts only where
	// no upstream may be asked. May be nil.
	Has func(n registry.Name, d digest.Digest) bool
	// Stale is how old a verdict may be that stands in while nobody can tell: one
	// of our own, or a word.
	Stale func(upstream string) time.Duration
	// Hear asks peers for their word about a repository and, where it is not
	// empty, a digest; false where none has one. It is called only while Ask does
	// not answer. nil: no peer's word counts.
	Hear func(ctx context.Context, n registry.Name, d digest.Digest) (Word, bool)
	// File keeps verdicts about repositories over a restart; "" for none.
	File string

	Now        func() time.Time // default time.Now
	Log        *zap.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
}

// verdict is what is known of a repository.
type verdict struct {
	Public  bool      `json:"public"`
	Checked time.Time `json:"checked"`
	// Word: it is a peer's word. It stands in, and is never as good as an answer.
	Word bool `json:"word,omitempty"`
}

// fresh tells whether an upstream said so lately.
func (v verdict) fresh(now time.Time) bool {
	if v.Public {
		return !v.Word && v.within(publicFor, now)
	}
	return v.within(privateFor, now)
}

// within tells whether it is at most so old; one of the future is too old.
func (v verdict) within(d time.Duration, now time.Time) bool {
	age := now.Sub(v.Checked)
	return age >= 0 && age < d
}

// Public knows which repositories are public. Safe for concurrent use.
type Public struct {
	o        Options
	log      *zap.Logger
	checks   *prometheus.CounterVec
	flight   singleflight.Group
	words    singleflight.Group
	contents contents

	ctx    context.Context // of questions: they outlive the client that asked first
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	dirty    bool // verdicts are not saved
	fresh    bool // one of them is new
	verdicts map[registry.Name]verdict
	absent   map[content]time.Time       // until when it is not asked for again
	silent   map[registry.Name]time.Time // when nobody could tell
}

// NewPublic reads what an earlier process knew; it must be closed.
func NewPublic(o Options) *Public {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	p := &Public{o: o, log: o.Log, verdicts: map[registry.Name]verdict{}, absent: map[content]time.Time{}, silent: map[registry.Name]time.Time{}, checks: newChecks(o)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.load()
	p.wg.Go(p.keepSaving)
	return p
}

// Close ends questions under way, and keeps what is known.
func (p *Public) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
	p.save()
}

// errPrivate says that a repository is not public. It has the Kind Denied.
func errPrivate(n registry.Name) error {
	return &upstream.Error{Op: "visibility", Upstream: n.Upstream, Repo: n.Repository, Kind: upstream.Denied,
		Err: errors.New("it is not public at its upstream")}
}

// Check is nil where anybody may be given the target: its repository is public,
// and a digest is the repository's own. Kinds are those of Options.Ask.
func (p *Public) Check(ctx context.Context, n registry.Name, t upstream.Target) error {
	d := digestOf(t)
	now := p.o.Now()
	v, known := p.verdict(n, now)
	own := d == "" || p.contents.of(n, d, p.isPublic)
	switch {
	case v.fresh(now) && !v.Public:
		return errPrivate(n)
	case v.fresh(now) && own:
		return nil
	case p.isAbsent(content{n, d}, now):
		return &upstream.Error{Op: "visibility", Upstream: n.Upstream, Repo: n.Repository, What: d.String(), Kind: upstream.NotFound,
			Err: errors.New("the repository did not have it a moment ago")}
	}
	c := check{p: p, n: n, t: t, d: d, own: own, stand: v.Public && own && v.within(p.o.Stale(n.Upstream), now)}
	err := c.run(ctx)
	if upstream.KindOf(err) == upstream.Offline {
		return p.offline(n, t, v, known, own, err)
	}
	return err
}

// offline decides where no upstream may ever be asked: what was private stays
// so. Of the rest it is the operator who put it there, for everybody.
func (p *Public) offline(n registry.Name, t upstream.Target, v verdict, known, own bool, err error) error {
	switch {
	case known && !v.Public:
		return errPrivate(n)
	case own, p.o.Has != nil && p.o.Has(n, digestOf(t)):
		return nil
	}
	return err
}

// ask asks once for all who wait, and remembers the answer.
func (p *Public) ask(ctx context.Context, key string, n registry.Name, t upstream.Target) <-chan singleflight.Result {
	via := upstream.Via(ctx)
	return p.flight.DoChan(key, func() (any, error) {
		if !p.begin() {
			return nil, context.Canceled
		}
		defer p.wg.Done()
		ctx, cancel := context.WithTimeout(upstream.WithVia(p.ctx, via), askTimeout)
		defer cancel()
		err := p.o.Ask(ctx, n, t)
		p.note(n, t, err)
		return t, err
	})
}

func (p *Public) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.wg.Add(1)
	return true
}

// note remembers an answer.
func (p *Public) note(n registry.Name, t upstream.Target, err error) {
	now := p.o.Now()
	d := digestOf(t)
	kind := upstream.KindOf(err)
	if conclusive(kind) {
		p.setSilent(n, time.Time{})
	}
	switch {
	case t == (upstream.Target{}) && (kind == upstream.None || kind == upstream.Denied):
		return // who may see the tags is a matter of its own: some registries show them to all, some to nobody
	case kind == upstream.Denied && d != "" && p.publicNow(n, now):
		p.setAbsent(content{n, d}, now) // some refuse what they do not have
		return
	}
	switch kind {
	case upstream.None:
		p.set(n, verdict{Public: true, Checked: now})
		if d != "" {
			p.contents.add(n, d, true)
		}
		p.count(n, "public")
	case upstream.Denied:
		p.set(n, verdict{Checked: now})
		p.count(n, "private")
	case upstream.NotFound:
		if d != "" {
			p.setAbsent(content{n, d}, now)
		}
		p.count(n, "not-found")
	default:
		p.setSilent(n, now)
		p.count(n, "unknown")
		p.log.Info("cannot tell whether a repository is public", zap.Stringer("repository", n), zap.Error(err))
	}
}

// publicNow tells whether an upstream said lately that a repository is public.
func (p *Public) publicNow(n registry.Name, now time.Time) bool {
	v, _ := p.verdict(n, now)
	return v.Public && v.fresh(now)
}

// verdict is what is known of a repository; what the client of the upstream saw
// by the way counts, too.
func (p *Public) verdict(n registry.Name, now time.Time) (verdict, bool) {
	p.mu.Lock()
	v, ok := p.verdicts[n]
	p.mu.Unlock()
	if p.o.Seen == nil || v.Public && v.fresh(now) {
		return v, ok
	}
	if at := p.o.Seen(n); at.After(v.Checked) {
		v, ok = verdict{Public: true, Checked: at}, true
		p.set(n, v)
	}
	return v, ok
}

func (p *Public) set(n registry.Name, v verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(n, v)
}

func (p *Public) setLocked(n registry.Name, v verdict) {
	old, known := p.verdicts[n]
	if known && old.Public != v.Public {
		p.log.Info("the visibility of a repository has changed at its upstream", zap.Stringer("repository", n), zap.Bool("public", v.Public))
	}
	for k := range p.verdicts { // some others, whichever come
		if known || len(p.verdicts) < maxRepositories {
			break
		}
		delete(p.verdicts, k)
	}
	p.verdicts[n] = v
	p.dirty = true
	p.fresh = p.fresh || !known || old.Public != v.Public || old.Word != v.Word
}

// isPublic tells whether a repository was public when last looked.
func (p *Public) isPublic(n registry.Name) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.verdicts[n].Public
}

func (p *Public) isAbsent(c content, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.digest != "" && now.Before(p.absent[c])
}

func (p *Public) setAbsent(c content, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.absent) >= maxRepositories {
		clear(p.absent) // they are asked for again, one by one
	}
	p.absent[c] = now.Add(absentFor)
}

// silentSince is how long ago nobody could tell; false where that was not so when
// last asked.
func (p *Public) silentSince(n registry.Name, now time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.silent[n]
	return now.Sub(at), ok && !now.Before(at)
}

// setSilent notes that nobody could tell; a zero time, that somebody did.
func (p *Public) setSilent(n registry.Name, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.IsZero() {
		delete(p.silent, n)
		return
	}
	if len(p.silent) >= maxRepositories {
		clear(p.silent) // they are waited for again, one by one
	}
	p.silent[n] = at
}

// Own tells whether a digest is known to be a repository's.
func (p *Public) Own(n registry.Name, d digest.Digest) bool { return p.contents.of(n, d, p.isPublic) }

// Foreign tells whether a digest is known to be of other repositories only, one
// of which is private.
func (p *Public) Foreign(n registry.Name, d digest.Digest, private func(registry.Name) bool) bool {
	return p.contents.foreign(n, d, func(o registry.Name) bool { return !p.isPublic(o) && private(o) })
}

// Prove notes that a repository has a digest: it was seen to give it by that
// name.
func (p *Public) Prove(n registry.Name, d digest.Digest) { p.contents.add(n, d, true) }

// Learn notes that a manifest which is a repository's names these digests. The
// upstream has looked, when it was pushed, whether the repository has them.
// That does not count for content that is known to be a private repository's.
func (p *Public) Learn(n registry.Name, named ...digest.Digest) {
	for _, d := range named {
		p.contents.add(n, d, false)
	}
}

func digestOf(t upstream.Target) digest.Digest {
	if t.Blob != "" {
		return t.Blob
	}
	if registry.IsDigest(t.Manifest) {
		return digest.Digest(t.Manifest)
	}
	return ""
}

func (p *Public) count(n registry.Name, result string) {
	p.checks.WithLabelValues(n.Upstream, result).Inc()
}

func newChecks(o Options) *prometheus.CounterVec {
	return promauto.With(o.Registerer).NewCounterVec(prometheus.CounterOpts{Namespace: o.Namespace, Name: "visibility_checks_total",
		Help: "Questions whether a repository is public at its upstream, by the answer."}, []string{"upstream", "result"})
}

// NewAnswers counts what became of requests for content that is not public.
func NewAnswers(reg prometheus.Registerer, namespace string) *prometheus.CounterVec {
	return promauto.With(reg).NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "private_answers_total",
		Help: "Requests for content that is not public, or of which nobody can tell, by what became of them."}, []string{"upstream", "result"})
}
