package store

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"go.uber.org/zap"
)

// What the pieces file says of a piece, one byte each. A higher rank replaces
// a lower one, never the other way round.
const (
	absent      byte = 0
	rawHidden   byte = 'p' // unverified, from an unsigned peer: nobody reads it
	rawReadable byte = 'u' // unverified, from the upstream: local readers may
	verified    byte = 'v'
)

func rank(mark byte) int {
	switch mark {
	case rawHidden:
		return 1
	case rawReadable:
		return 2
	case verified:
		return 3
	}
	return 0
}

// state is what all handles on one blob share.
type state struct {
	s      *Store
	digest digest.Digest
	geo    piece.Geometry
	dir    string

	ready   chan struct{} // closed once the files are there, or initErr is set
	initErr error

	// Guarded by Store.mu.
	pins      int
	elem      *list.Element // in Store.lru while nobody pins it
	bytes     int64         // content held
	promising bool
	promise   int64         // bytes still to come, while promising
	full      bool          // complete, as counted by the Store
	detached  bool          // no longer in the table
	gone      chan struct{} // non-nil once Delete began; closed when it ended
	kept      bool          // never evicted; written with side held too
	users     []*prefix     // longest prefixes with a quota of those who use it; nil for others
	shares    []share       // of the prefixes that it counts for
	large     bool          // larger than all its users' quotas allow: evicted at once
	lastUse   time.Time
	until     time.Time // counts as used then, if that is later: see Favour
	touched   time.Time // last use as written to disk

	wmu sync.RWMutex // see doc.go

	side      sync.Mutex // guards the runs and the files runs and meta
	runs      [][]byte
	runsLen   int64 // good bytes of the runs file
	runsKnown bool

	mu         sync.Mutex
	err        error // set once: deleted or closed
	complete   bool
	settled    bool // the last piece may be read if it is verified
	settledRaw bool // ... or unverified
	have       *piece.Bitfield
	raw        *piece.Bitfield
	open       *piece.Bitfield // the part of raw that local readers may have
	gen        uint64          // counts how often all content was dropped
	drops      []int           // readable raw pieces dropped in this generation
	busy       map[int]chan struct{}
	waiters    map[int]*waiter
	data       *os.File // opened when needed, closed with the last pin
	pieces     *os.File // the same, partial blobs only
	meta       Meta
	cached     bool // complete, as one file: see cache.go
	damaged    bool // partial since its content proved wrong: see damage.go
}

// waiter is what readers of one piece wait for.
type waiter struct {
	done chan struct{}
	err  error // set before done is closed
	n    int   // readers
}

func newState(s *Store, d digest.Digest, g piece.Geometry) *state {
	st := &state{s: s, digest: d, geo: g, dir: s.blobDir(d), ready: make(chan struct{})}
	st.clearBits()
	return st
}

func (st *state) clearBits() {
	n := st.geo.Count()
	st.have, st.raw, st.open = piece.NewBitfield(n), piece.NewBitfield(n), piece.NewBitfield(n)
}

func (st *state) path(name string) string { return filepath.Join(st.dir, name) }

// contentLocked is where the content is now.
func (st *state) contentLocked() string {
	switch {
	case st.cached:
		return st.s.smallPath(st.digest)
	case st.complete:
		return st.path(dataName)
	}
	return st.path(partName)
}

// build makes the files of a new blob, unless err says there is no room for it.
func (st *state) build(err error, files func() error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	st.mu.Lock()
	closed := st.err
	st.mu.Unlock()
	if err == nil {
		if err = closed; err == nil {
			err = files()
		}
		for noSpace(err) && st.s.evictOne() {
			os.RemoveAll(st.dir)
			err = files()
		}
		if err != nil {
			st.s.mu.Lock()
			os.RemoveAll(st.dir)
			if !st.detached {
				st.s.forgetLocked(st)
			}
			st.s.mu.Unlock()
		}
	}
	st.initErr = err
	close(st.ready)
}

// makeDir makes the blob's directory, empty.
func (st *state) makeDir() error {
	shard := filepath.Dir(st.dir)
	if err := os.Mkdir(shard, dirPerm); err == nil {
		st.s.shards.made(filepath.Dir(shard))
	} else if !errors.Is(err, os.ErrExist) {
		return err
	}
	err := os.Mkdir(st.dir, dirPerm)
	if errors.Is(err, os.ErrExist) {
		// Not in the table, so it is what a failed removal left.
		err = errors.Join(os.RemoveAll(st.dir), os.Mkdir(st.dir, dirPerm))
	}
	return err
}

// partialFiles makes the files of a partial blob. The meta file comes last:
// without it a directory is a leftover.
func (st *state) partialFiles() error {
	if err := st.makeDir(); err != nil {
		return err
	}
	st.s.at("create: directory made")
	if err := os.WriteFile(st.path(piecesName), make([]byte, st.geo.Count()), filePerm); err != nil {
		return err
	}
	st.s.at("create: pieces made")
	if err := makeSparse(st.path(partName), st.geo.Size()); err != nil {
		return err
	}
	st.s.at("create: content made")
	if err := replaceFile(st.path(metaName), encodeMeta(st.digest, st.geo.Size(), st.meta, false), false); err != nil {
		return err
	}
	st.s.at("create: meta made")
	st.touch()
	return nil
}

func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	return errors.Join(err, f.Close())
}

// opened waits until the blob's files are there.
func (st *state) opened(touch bool) error {
	<-st.ready
	if st.initErr == nil && touch {
		st.touch()
	}
	return st.initErr
}

// usedPath is the file whose mtime is the time of last use.
func (st *state) usedPath() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.cached {
		return st.contentLocked()
	}
	return st.path(metaName)
}

// touch writes the time of last use to disk. It is advice for the next LRU
// order, so an error is of no consequence.
func (st *state) touch() {
	st.s.mu.Lock()
	t := st.lastUse
	st.s.mu.Unlock()
	_ = os.Chtimes(st.usedPath(), t, t)
}

// info describes the blob. The caller holds Store.mu.
func (st *state) info() Info {
	st.mu.Lock()
	defer st.mu.Unlock()
	i := Info{
		Digest: st.digest, Size: st.geo.Size(), Pieces: st.geo.Count(),
		Complete: st.complete, Kept: st.kept, Damaged: st.damaged, LastUse: st.lastUse,
		Meta: Meta{MediaType: st.meta.MediaType, Sources: slices.Clone(st.meta.Sources)},
	}
	if st.complete {
		i.Have = i.Pieces
	} else {
		i.Have, i.Raw = st.have.Count(), st.raw.Count()
	}
	return i
}

func (st *state) isKept() bool {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return st.kept
}

func (st *state) isComplete() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.complete
}

// filesLocked returns the descriptors, opening them if need be; pieces is nil
// for a complete blob. The caller holds st.mu and a pin.
func (st *state) filesLocked() (data, pieces *os.File, err error) {
	if st.data == nil {
		if st.err != nil {
			return nil, nil, st.err
		}
		flag := os.O_RDWR
		if st.complete {
			flag = os.O_RDONLY
		}
		if st.data, err = os.OpenFile(st.contentLocked(), flag, 0); err != nil {
			st.data = nil
			return nil, nil, fmt.Errorf("store: open content of %s: %w", st.digest, err)
		}
	}
	if st.pieces == nil && !st.complete && st.err == nil {
		if st.pieces, err = os.OpenFile(st.path(piecesName), os.O_RDWR, 0); err != nil {
			st.pieces = nil
			return nil, nil, fmt.Errorf("store: open pieces of %s: %w", st.digest, err)
		}
	}
	return st.data, st.pieces, nil
}

func (st *state) closeFiles() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	var errs []error
	for _, f := range []**os.File{&st.data, &st.pieces} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

// kill makes the handles fail with err; content already held stays readable
// through them if the error is not ErrClosed.
func (st *state) kill(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return
	}
	if !errors.Is(err, ErrClosed) {
		// For those who still read: the path will be gone.
		if _, _, err := st.filesLocked(); err != nil {
			st.s.log.Warn("open before delete", zap.Stringer("digest", st.digest), zap.Error(err))
		}
	}
	st.err = err
	st.wakeAllLocked(err)
}

// markLocked records what is held of piece i. The caller holds st.mu and has
// claimed the piece.
func (st *state) markLocked(i int, mark byte) {
	set := func(f *piece.Bitfield, on bool) {
		if on {
			f.Set(i)
		} else {
			f.Clear(i)
		}
	}
	set(st.have, mark == verified)
	set(st.raw, mark == rawHidden || mark == rawReadable)
	set(st.open, mark == rawReadable)
}

// heldLocked is the mark of piece i.
func (st *state) heldLocked(i int) byte {
	switch {
	case st.complete || st.have.Has(i):
		return verified
	case st.open.Has(i):
		return rawReadable
	case st.raw.Has(i):
		return rawHidden
	}
	return absent
}

// readableLocked tells whether a Reader may return bytes of piece i: the
// withholding rule, from which readers of parts are exempt.
func (st *state) readableLocked(i int, part bool) bool {
	if st.complete {
		return true
	}
	last := i == st.geo.Count()-1 && !part
	if st.have.Has(i) {
		return !last || st.settled
	}
	return st.open.Has(i) && (!last || st.settledRaw)
}

// waitLocked joins those who wait for piece i; leave undoes it.
func (st *state) waitLocked(i int) *waiter {
	w := st.waiters[i]
	if w == nil {
		w = &waiter{done: make(chan struct{})}
		if st.waiters == nil {
			st.waiters = make(map[int]*waiter)
		}
		st.waiters[i] = w
	}
	w.n++
	return w
}

func (st *state) leave(i int, w *waiter) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if w.n--; w.n == 0 && st.waiters[i] == w {
		delete(st.waiters, i)
	}
}

// wakeLocked wakes those who wait for piece i, and only those.
func (st *state) wakeLocked(i int) {
	if w := st.waiters[i]; w != nil && st.readableLocked(i, true) { // whoever it is withheld from waits again
		close(w.done)
		delete(st.waiters, i)
	}
}

func (st *state) wakeAllLocked(err error) {
	for _, w := range st.waiters {
		w.err = err
		close(w.done)
	}
	clear(st.waiters)
}
