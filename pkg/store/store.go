package store

import (
	"cmp"
	"container/list"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/samara-p2p/samara/pkg/piece"
	"go.uber.org/zap"
)

// Options of a Store; the zero value is usable.
type Options struct {
	// Quota bounds the bytes of content held, in bytes; 0 = none. It counts
	// the pieces held of partial blobs, not the size of their sparse files.
	Quota int64

	// Prefixes bound the bytes of content by the repositories that it comes
	// from. They are met by evicting, never by refusing.
	Prefixes []PrefixQuota

	// Verify is asked, for a partial blob whose bytes may have been lost with
	// the power, what its pieces must hash to, given the runs kept with it.
	// It may return nil. Pieces with no known hash are dropped; with a nil
	// Verify that is all of them.
	Verify func(d digest.Digest, size int64, envelopes [][]byte) func(i int) (piece.Hash, bool)

	// BootID names this run of the machine: partial blobs written under
	// another one are verified again. Default: the kernel's boot_id.
	BootID string

	Now        func() time.Time // time of last use; default time.Now
	Log        *zap.Logger      // default: none
	Registerer prometheus.Registerer
	Namespace  string // first part of metric names, "seeder" or "peerd"
}

// Meta is what is remembered of a blob besides its bytes.
type Meta struct {
	MediaType string
	Sources   []string // "upstream/repository" it came from, most recent first, at most 8
}

// Info describes one blob.
type Info struct {
	Digest   digest.Digest
	Size     int64 // bytes
	Have     int   // verified pieces; all of them for a complete blob
	Raw      int   // pieces held whose hash is not known
	Pieces   int
	Complete bool
	Kept     bool // never evicted
	Damaged  bool // partial since its content proved wrong, see Check
	Meta     Meta
	LastUse  time.Time
}

// Usage describes the whole store.
type Usage struct {
	Used     int64 // bytes of content held
	Promised int64 // bytes still to come of blobs being written
	Reserved int64 // bytes that lie elsewhere on their way in, see Reserve
	Quota    int64 // 0 = none
	Blobs    int   // complete
	Partial  int
	Damaged  int // of the partial ones: their content proved wrong
	Prefixes []PrefixUsage
}

// Store holds blobs in one directory. It is safe for concurrent use.
type Store struct {
	dir  string
	o    Options
	log  *zap.Logger
	m    *metrics
	lock *os.File
	step func(name string) // called where a crash may strike, for tests; else nil

	shards   shards
	prefixes prefixes

	mu       sync.Mutex
	closed   bool
	blobs    map[digest.Digest]*state
	lru      list.List // *state that nobody pins, least recently used first
	used     int64     // sum of state.bytes
	promised int64     // sum of state.promise
	idle     int64     // sum of state.bytes over lru
	reserved int64     // see Reserve
	complete int       // number of states with full set
	damaged  int       // number of states with damaged set
	trashed  uint64    // makes names in trash unique
}

func (s *Store) at(step string) {
	if s.step != nil {
		s.step(step)
	}
}

// Blob returns a handle on an existing blob, complete or partial, and pins it
// until Release. Errors: ErrNotFound, ErrClosed, or a bad digest.
func (s *Store) Blob(d digest.Digest) (*Blob, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	for {
		s.mu.Lock()
		st := s.blobs[d]
		switch {
		case s.closed:
			s.mu.Unlock()
			return nil, ErrClosed
		case st == nil:
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: %s", ErrNotFound, d)
		case st.gone != nil:
			gone := st.gone
			s.mu.Unlock()
			<-gone
			continue
		}
		touch := s.pinLocked(st)
		s.mu.Unlock()
		if err := st.opened(touch); err != nil {
			s.unpin(st)
			return nil, fmt.Errorf("%w: %s", ErrNotFound, d)
		}
		return &Blob{st: st}, nil
	}
}

// Create returns a handle on the blob, making an empty partial one if there is
// none, and pins it until Release. Room for all of it is made and kept until
// then, first among what comes from the same repositories if these have a
// quota. An empty blob is complete at once.
// Errors: ErrSize (it exists with another size, or no blob can be that large),
// ErrFull (as *FullError), ErrCorrupt (size 0, digest of something else),
// ErrClosed, a bad digest, or the system's.
func (s *Store) Create(d digest.Digest, size int64, repositories ...string) (*Blob, error) {
	return s.create(d, size, true, repositories)
}

// CreatePart is Create for a blob of which perhaps only a few pieces will come:
// no room is kept, and each piece takes what there is when it is written.
func (s *Store) CreatePart(d digest.Digest, size int64, repositories ...string) (*Blob, error) {
	return s.create(d, size, false, repositories)
}

func (s *Store) create(d digest.Digest, size int64, promise bool, repositories []string) (*Blob, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	g, err := piece.GeometryOf(size)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSize, d, err)
	}
	if size == 0 && d.Algorithm().FromBytes(nil) != d {
		return nil, fmt.Errorf("%w: %s cannot be the digest of an empty blob", ErrCorrupt, d)
	}
	free, err := diskFree(s.dir)
	if err != nil {
		return nil, err
	}
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		st, fresh := s.blobs[d], false
		if st != nil && st.gone != nil {
			gone := st.gone
			s.mu.Unlock()
			<-gone
			continue
		}
		if st != nil && st.geo.Size() != size {
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: %s has %d bytes here, not %d", ErrSize, d, st.geo.Size(), size)
		}
		if st == nil {
			st, fresh = newState(s, d, g), true
			s.blobs[d] = st
		}
		touch := s.pinLocked(st)
		trash := s.usedByLocked(st, repositories...)
		var more []string
		if promise {
			more, err = s.promiseLocked(st, free)
		}
		if err != nil && fresh {
			s.forgetLocked(st)
		}
		s.mu.Unlock()
		s.sweep(append(trash, more...))
		if fresh {
			st.build(err, st.partialFiles)
		}
		if err == nil {
			err = st.opened(touch && !fresh)
		}
		if err != nil {
			s.unpin(st)
			return nil, s.writeError("create", st, size, err)
		}
		b := &Blob{st: st}
		if size == 0 {
			if err := b.Commit(false); err != nil {
				b.Release()
				return nil, err
			}
		}
		return b, nil
	}
}

// Delete removes a blob, pinned or not. Handles on it fail with ErrNotFound
// from then on, except that what was held can still be read until they are
// released; waiting readers return ErrNotFound.
// Errors: ErrNotFound, ErrClosed, or the system's.
func (s *Store) Delete(d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	b, err := s.Blob(d)
	if err != nil {
		return err
	}
	defer b.Release()
	st := b.st

	s.mu.Lock()
	if st.gone != nil || st.detached {
		s.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrNotFound, d)
	}
	st.gone = make(chan struct{}) // nobody gets a new handle from here on
	s.mu.Unlock()

	st.kill(fmt.Errorf("%w: %s was deleted", ErrNotFound, d))
	st.wmu.Lock() // every writer and committer is out
	defer st.wmu.Unlock()
	st.side.Lock()
	defer st.side.Unlock()
	s.mu.Lock()
	trash, err := s.detachLocked(st)
	if err != nil {
		s.forgetLocked(st) // its handles are dead already
	}
	close(st.gone)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("store: delete %s: %w", d, err)
	}
	s.sweep([]string{trash})
	s.log.Info("blob deleted", zap.Stringer("digest", d), zap.Int64("size", st.geo.Size()))
	return nil
}

// Stat describes one blob without counting as a use of it.
// Errors: ErrNotFound, ErrClosed, or a bad digest.
func (s *Store) Stat(d digest.Digest) (Info, error) {
	if err := checkDigest(d); err != nil {
		return Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return Info{}, ErrClosed
	}
	st := s.blobs[d]
	if st == nil || st.gone != nil {
		return Info{}, fmt.Errorf("%w: %s", ErrNotFound, d)
	}
	return st.info(), nil
}

// Touch counts as a use of what the store holds of a blob: it is evicted later.
// It reports whether that was written to disk, at most once a minute.
func (s *Store) Touch(d digest.Digest) bool {
	s.mu.Lock()
	st := s.blobs[d]
	if st == nil || st.gone != nil || s.closed {
		s.mu.Unlock()
		return false
	}
	touch := s.useLocked(st)
	s.mu.Unlock()
	if touch {
		st.touch()
	}
	return touch
}

// CountFor tells that a repository, "upstream/repository", uses a blob that may
// have come from elsewhere: it counts for the quotas of its prefixes, too. It is
// forgotten with the process, and does not say that the repository has the blob.
func (s *Store) CountFor(d digest.Digest, repository string) {
	if len(s.prefixes) == 0 {
		return
	}
	s.mu.Lock()
	var trash []string
	if st := s.blobs[d]; st != nil && st.gone == nil && !s.closed {
		trash = s.usedByLocked(st, repository)
	}
	s.mu.Unlock()
	s.sweep(trash)
}

// Peek opens the content of a complete blob and describes it, without counting
// as a use and without pinning it. The descriptor is the caller's and stays
// readable after eviction.
// Errors: ErrNotHeld (it is partial), ErrNotFound, ErrClosed, or a bad digest.
func (s *Store) Peek(d digest.Digest) (*os.File, Info, error) {
	if err := checkDigest(d); err != nil {
		return nil, Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.blobs[d]
	switch {
	case s.closed:
		return nil, Info{}, ErrClosed
	case st == nil || st.gone != nil:
		return nil, Info{}, fmt.Errorf("%w: %s", ErrNotFound, d)
	}
	info := st.info()
	f, err := st.file()
	return f, info, err
}

// Infos describes all blobs, ordered by digest.
func (s *Store) Infos() []Info {
	s.mu.Lock()
	infos := make([]Info, 0, len(s.blobs))
	for _, st := range s.blobs {
		if st.gone == nil {
			infos = append(infos, st.info())
		}
	}
	s.mu.Unlock()
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.Digest, b.Digest) })
	return infos
}

// Evictable lists the blobs that would be evicted to free n bytes, those that go
// first first; all that may be, where they are not enough. Held tells the bytes of
// each that would be free.
func (s *Store) Evictable(n int64) (infos []Info, held []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.lru.Front(); e != nil && n > 0; e = e.Next() {
		st := e.Value.(*state)
		infos, held = append(infos, st.info()), append(held, st.bytes)
		n -= st.bytes
	}
	return infos, held
}

// Usage describes the whole store.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{
		Used: s.used, Promised: s.promised, Reserved: s.reserved, Quota: s.o.Quota,
		Blobs: s.complete, Partial: len(s.blobs) - s.complete, Damaged: s.damaged,
		Prefixes: s.prefixUsageLocked(),
	}
}

// Close waits for writes in flight and gives the directory free. Readers and
// handles return ErrClosed from then on. A second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var pinned []*state
	for _, st := range s.blobs {
		if st.pins > 0 {
			pinned = append(pinned, st)
		}
	}
	s.mu.Unlock()
	for _, st := range pinned {
		st.kill(ErrClosed)
	}
	var errs []error
	for _, st := range pinned {
		st.wmu.Lock()
		st.side.Lock()
		errs = append(errs, st.closeFiles())
		st.side.Unlock()
		st.wmu.Unlock()
	}
	s.m.unregister()
	errs = append(errs, s.lock.Close())
	s.log.Info("store closed", zap.String("dir", s.dir))
	return errors.Join(errs...)
}
