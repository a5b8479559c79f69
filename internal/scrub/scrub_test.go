package scrub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a Store in memory.
type shelf struct {
	mu      sync.Mutex
	blobs   map[digest.Digest]*store.Info
	rotten  map[digest.Digest]bool
	failing error // of every check
	checked []digest.Digest
}

// newShelf holds blobs of 1 MiB named by their number.
func newShelf(n int) *shelf {
	s := &shelf{blobs: make(map[digest.Digest]*store.Info), rotten: make(map[digest.Digest]bool)}
	for i := range n {
		s.blobs[name(i)] = &store.Info{Digest: name(i), Size: step, Complete: true}
	}
	return s
}

func name(i int) digest.Digest { return digest.Digest(fmt.Sprintf("sha256:%064d", i)) }

func (s *shelf) Infos() []store.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []store.Info
	for _, in := range s.blobs {
		all = append(all, *in)
	}
	slices.SortFunc(all, func(a, b store.Info) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return all
}

func (s *shelf) Stat(d digest.Digest) (store.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in := s.blobs[d]; in != nil {
		return *in, nil
	}
	return store.Info{}, store.ErrNotFound
}

func (s *shelf) Check(d digest.Digest, pace func(int) error) (int64, error) {
	if err := pace(step); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked = append(s.checked, d)
	if s.failing != nil {
		return step, s.failing
	}
	if s.rotten[d] {
		delete(s.rotten, d)
		if s.blobs[d].Kept {
			s.blobs[d].Complete, s.blobs[d].Damaged = false, true
		} else {
			delete(s.blobs, d) // as a cached small blob
		}
		return step, fmt.Errorf("%w: %s", store.ErrDamaged, d)
	}
	return step, nil
}

func (s *shelf) took() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.checked
	s.checked = nil
	return t
}

func (s *shelf) rot(i int, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rotten[name(i)], s.blobs[name(i)].Kept = true, kept
}

// mend makes a blob whole, as a push or a repair does.
func (s *shelf) mend(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = &store.Info{Digest: d, Size: step, Complete: true}
}

// options are for a shelf, at a MiB a second.
func (s *shelf) options(t *testing.T) Options {
	return Options{Store: s, Every: 24 * time.Hour, Rate: step, File: filepath.Join(t.TempDir(), "scrub.json"),
		Repair:     func(_ context.Context, in store.Info) error { s.mend(in.Digest); return nil },
		Registerer: prometheus.NewRegistry()}
}

func start(t *testing.T, o Options) *Scrubber {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// elapse lets virtual time pass.
func elapse(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// A round comes a pause after the one before began, reads no faster than it may,
// and takes everything in order.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := newShelf(100)
		s := start(t, sh.options(t))
		defer s.Close()
		elapse(24*time.Hour - time.Second)
		if got := sh.took(); len(got) != 0 || s.Status().Running || !s.Status().Next.Equal(time.Now().Add(time.Second)) {
			t.Fatalf("%d blobs were checked before their time: %+v", len(got), s.Status())
		}
		elapse(time.Second + 50*time.Second)
		st := s.Status()
		if got := len(sh.took()); got < 45 || got > 55 || !st.Running || st.Blobs != int64(got) || st.Bytes != int64(got)*step || st.Total != 100*step || !st.Next.IsZero() {
			t.Errorf("after 50 s at 1 MiB a second: %d blobs, %+v", got, st)
		}
		if s.Now() {
			t.Error("a round began beside the other")
		}
		elapse(time.Minute)
		st = s.Status()
		if got := sh.took(); st.Running || st.Ended.Before(st.Began) || st.Blobs != 100 || st.Damaged != 0 || got[len(got)-1] != name(99) || !slices.IsSorted(got) {
			t.Errorf("%+v, ends at %v", st, got[len(got)-1])
		}
		elapse(24*time.Hour - 100*time.Second)
		if got := len(sh.took()); got == 0 {
			t.Error("no second round")
		}
	})
}

func TestNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := newShelf(5)
		o := sh.options(t)
		o.Every = 0
		s := start(t, o)
		defer s.Close()
		elapse(1000 * time.Hour)
		if got := sh.took(); len(got) != 0 || !s.Status().Next.IsZero() {
			t.Errorf("%d blobs were checked", len(got))
		}
		for range 2 {
			if !s.Now() {
				t.Error("no round began")
			}
		}
		elapse(time.Minute)
		if got := sh.took(); len(got) != 5 {
			t.Errorf("%d blobs were checked", len(got))
		}
	})
}

// A restart goes on where the process before was, also when that was killed.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := newShelf(100)
		o := sh.options(t)
		s := start(t, o)
		s.Now()
		elapse(30 * time.Second)
		killed, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		first := sh.took()
		s = start(t, o)
		elapse(90 * time.Second)
		second := sh.took()
		if st := s.Status(); len(first)+len(second) != 100 || !slices.IsSorted(append(first, second...)) || st.Blobs != 100 || !st.Ended.After(st.Began) {
			t.Errorf("%d, then %d: %+v", len(first), len(second), st)
		}
		s.Close()

		if err := os.WriteFile(o.File, killed, 0o600); err != nil {
			t.Fatal(err)
		}
		s = start(t, o)
		defer s.Close()
		elapse(120 * time.Second)
		if again := sh.took(); len(again) < len(second) || len(again) > len(second)+15 {
			t.Errorf("after a kill %d blobs were checked, after a stop %d", len(again), len(second))
		}
	})
}

func TestRecordUnread(t *testing.T) {
	for name, content := range map[string]string{
		"broken": "{", "large": strings.Repeat(" ", maxRecord) + "{}", "future": `{"began":"9999-01-01T00:00:00Z","open":false}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sh := newShelf(3)
				o := sh.options(t)
				if err := os.WriteFile(o.File, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				s := start(t, o)
				defer s.Close()
				elapse(25 * time.Hour)
				if got := sh.took(); len(got) != 3 {
					t.Errorf("%d blobs were checked", len(got))
				}
			})
		})
	}
	sh := newShelf(1)
	o := sh.options(t)
	o.File = filepath.Join(o.File, "not", "there")
	if _, err := Start(o); err == nil {
		t.Error("there is nowhere to note it, and no error")
	}
}

// Damaged content is repaired, what cannot be is tried again with pauses, and
// shown; somebody else may mend it.
func TestRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := newShelf(10)
		sh.rot(2, true)
		sh.rot(4, true)
		sh.rot(6, false)
		broken := errors.New("the upstream is down")
		tries := make(map[digest.Digest][]time.Time)
		o := sh.options(t)
		mend := o.Repair
		var down = true
		o.Repair = func(ctx context.Context, in store.Info) error {
			tries[in.Digest] = append(tries[in.Digest], time.Now())
			if down && in.Digest != name(2) {
				return broken
			}
			return mend(ctx, in)
		}
		s := start(t, o)
		defer func() { s.Close() }()
		s.Now()
		elapse(30 * time.Second)
		st := s.Status()
		if st.Damaged != 3 || len(st.Repairs) != 1 || st.Repairs[0].Info.Digest != name(4) || st.Repairs[0].Tries != 1 || !errors.Is(st.Repairs[0].Err, broken) || !st.Repairs[0].Info.Kept {
			t.Errorf("%+v", st)
		}
		if in, err := sh.Stat(name(2)); err != nil || !in.Complete {
			t.Errorf("%+v: %v", in, err)
		}
		elapse(10 * time.Minute)
		if at := tries[name(4)]; len(at) != 4 || at[1].Sub(at[0]) != time.Minute || at[3].Sub(at[2]) != 4*time.Minute {
			t.Errorf("tried at %v", at)
		}
		if n := len(tries[name(6)]); n != 1 {
			t.Errorf("what was dropped was tried %d times", n)
		}

		// A restart finds it again; to ask for a round is to ask for a repair.
		s.Close()
		s = start(t, o)
		elapse(10 * time.Second)
		if st := s.Status(); len(st.Repairs) != 1 || len(tries[name(4)]) != 5 {
			t.Errorf("%+v, tried at %v", st.Repairs, tries[name(4)])
		}
		down = false
		s.Now()
		elapse(time.Second)
		if st := s.Status(); len(st.Repairs) != 0 || len(tries[name(4)]) != 6 {
			t.Errorf("%+v, tried at %v", st.Repairs, tries[name(4)])
		}

		// What a push has mended is not tried.
		down = true
		sh.rot(8, true)
		elapse(time.Minute)
		s.Now()
		elapse(30 * time.Second)
		n := len(tries[name(8)])
		sh.mend(name(8))
		if st := s.Status(); n == 0 || len(st.Repairs) != 0 {
			t.Errorf("%d tries, %+v", n, st.Repairs)
		}
		elapse(time.Hour)
		if len(tries[name(8)]) != n {
			t.Error("it was repaired though it was whole")
		}
	})
}

// A disk that fails is not a thousand damaged blobs.
func TestStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := newShelf(100)
		sh.failing = fmt.Errorf("%w: it cannot be read", store.ErrDamaged)
		s := start(t, sh.options(t))
		defer s.Close()
		s.Now()
		elapse(time.Minute)
		st := s.Status()
		if got := len(sh.took()); got != tooMany || st.Running || st.Err == nil || st.Ended.After(st.Began) {
			t.Errorf("%d blobs were checked: %+v", got, st)
		}
		sh.mu.Lock()
		sh.failing = nil
		sh.mu.Unlock()
		elapse(retryRound + 2*time.Minute)
		if got := len(sh.took()); got != 100-tooMany || s.Status().Err != nil || !s.Status().Ended.After(s.Status().Began) {
			t.Errorf("%d blobs were checked: %+v", got, s.Status())
		}
	})
}
