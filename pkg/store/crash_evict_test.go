package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// The second crash test kills a store that has far too little room: whatever is
// stored evicts something else, by the quota or by that of a prefix. What is kept
// must be there, nothing may be wrong, and all of it within the quota.

const (
	crashEvictEnv   = "SAMARA_STORE_CRASH_EVICT"
	crashEvictKills = 20
	evictBlobs      = 18
	evictKept       = 3 // the first ones are kept now and then
)

func evictFixtures() []crashBlob {
	blobs := make([]crashBlob, evictBlobs)
	for k := range blobs {
		blobs[k] = crashFixture(uint64(3000+k), (k%6)*piece.MinSize/2+100+k)
	}
	return blobs
}

func evictOptions() store.Options {
	return store.Options{Quota: 12 * piece.MinSize, Prefixes: []store.PrefixQuota{
		{Prefix: "docker.io", Bytes: 5 * piece.MinSize}, {Prefix: "docker.io/library", Bytes: 3 * piece.MinSize}}}
}

// evictChild is the life of such a child.
func evictChild(dir string, seed uint64) {
	s, err := store.Open(dir, evictOptions())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	blobs := evictFixtures()
	var wg sync.WaitGroup
	for w := range crashWorkers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for {
				// A blob belongs to one worker, so that what it says is in order.
				k := rng.IntN(evictBlobs/crashWorkers)*crashWorkers + w
				err := evictStep(s, dir, k, blobs[k], rng)
				if err != nil && !errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrNotFound) {
					fmt.Println("error", k, err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
}

func evictStep(s *store.Store, dir string, k int, f crashBlob, rng *rand.Rand) error {
	from := []string{"docker.io/library/a", "docker.io/team/b", "ghcr.io/c/d"}[rng.IntN(3)]
	if k < evictKept {
		return keepStep(s, dir, k, f, rng)
	}
	switch rng.IntN(12) {
	case 0:
		s.Touch(f.digest)
		s.CountFor(f.digest, from)
		return nil
	case 1:
		return s.Cache(f.digest, f.content, from)
	case 2:
		return s.Put(f.digest, f.content, store.Meta{Sources: []string{from}})
	case 3:
		return spoilAndCheck(s, dir, f)
	}
	b, err := s.Create(f.digest, int64(len(f.content)), from)
	if err != nil {
		return err
	}
	defer b.Release()
	if err := b.SetMeta(store.Meta{Sources: []string{from}}); err != nil {
		return err
	}
	for i := range rng.IntN(f.g.Count() + 1) {
		if _, err := b.WritePiece(i, f.piece(i)); err != nil {
			return err
		}
	}
	if b.Complete() || !b.Have().Full() {
		return nil
	}
	err = b.Commit(false)
	storetest.Say("stored %d", k)
	return err
}

// keepStep has a blob kept, damaged and mended, or let go.
func keepStep(s *store.Store, dir string, k int, f crashBlob, rng *rand.Rand) error {
	if rng.IntN(4) == 0 {
		storetest.Say("dropping %d", k)
		if rng.IntN(2) == 0 {
			return s.Delete(f.digest)
		}
		if err := spoilAndCheck(s, dir, f); err != nil {
			return err
		}
	}
	if err := s.Put(f.digest, f.content, store.Meta{}); err != nil {
		return err
	}
	b, err := s.Blob(f.digest)
	if err != nil {
		return err
	}
	defer b.Release()
	if err := b.Keep(true); err != nil {
		return err
	}
	storetest.Say("kept %d", k)
	return nil
}

// spoilAndCheck loses the content of a blob, and has the store find that.
func spoilAndCheck(s *store.Store, dir string, f crashBlob) error {
	in, err := s.Stat(f.digest)
	if err != nil || !in.Complete {
		return err
	}
	switch err := os.Remove(blobFile(dir, f.digest, "data")); {
	case errors.Is(err, fs.ErrNotExist):
		return nil // it is a cached one, or was evicted
	case err != nil:
		return err
	}
	if _, err := s.Check(f.digest, atOnce); err != nil && !errors.Is(err, store.ErrDamaged) {
		return err
	}
	return nil
}

func TestSIGKILLEvicting(t *testing.T) {
	dir := t.TempDir()
	blobs := evictFixtures()
	rng := rand.New(rand.NewPCG(5, 6))
	var kept [evictKept]bool
	hear := func(line string) error {
		word, rest, _ := strings.Cut(line, " ")
		var k int
		if _, err := fmt.Sscan(rest, &k); err != nil || word == "error" {
			return fmt.Errorf("child: %s", line)
		}
		if k < evictKept {
			kept[k] = word == "kept"
		}
		return nil
	}
	lines, whole := 0, 0
	kills := storetest.Kills(t, crashEvictKills)
	for round := range kills {
		heard, err := storetest.KillAfter(1+rng.IntN(30), hear, crashDirEnv+"="+dir, crashEvictEnv+"=1", fmt.Sprintf("%s=%d", crashSeedEnv, round))
		lines += heard
		n := 0
		if err == nil {
			n, err = checkEvicted(dir, blobs, kept[:])
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		whole += n
	}
	t.Logf("%d kills, %d acknowledged steps; after them %d complete blobs were checked", kills, lines, whole)
	if whole < kills {
		t.Fatal("too little was held for the test to mean something")
	}
}

// checkEvicted opens what a kill has left, and returns how many complete blobs
// there are.
func checkEvicted(dir string, blobs []crashBlob, kept []bool) (whole int, err error) {
	o := evictOptions()
	s, err := store.Open(dir, o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close(), noLeftovers(dir)) }()
	if err := s.Accounts(); err != nil {
		return 0, err
	}
	u := s.Usage()
	if u.Used > o.Quota {
		return 0, fmt.Errorf("the quota is exceeded: %+v", u)
	}
	for _, p := range u.Prefixes {
		if p.Used > p.Bytes {
			return 0, fmt.Errorf("the quota of a prefix is exceeded: %+v", p)
		}
	}
	var none promises
	for k, f := range blobs {
		b, err := s.Blob(f.digest)
		if err != nil {
			if k < len(kept) && kept[k] || !errors.Is(err, store.ErrNotFound) {
				return 0, fmt.Errorf("blob %d: %w", k, err)
			}
			continue
		}
		_, err = none.keptBlob(0, f, b)
		complete := b.Complete()
		b.Release()
		if err != nil {
			return 0, fmt.Errorf("blob %d: %w", k, err)
		}
		if complete {
			whole++
		}
		if in, err := s.Stat(f.digest); k < len(kept) && kept[k] && (err != nil || !in.Kept || !in.Complete) {
			return 0, fmt.Errorf("blob %d was kept, and is %+v: %w", k, in, err)
		}
	}
	return whole, nil
}
