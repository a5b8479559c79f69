package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// The crash test kills a child (storetest.KillAfter) that does everything a
// store can do with a few blobs: what it said to be done must be there, and no
// byte may be wrong.

const (
	crashDirEnv  = "SAMARA_STORE_CRASH_DIR"
	crashSeedEnv = "SAMARA_STORE_CRASH_SEED"
	crashBlobs   = 8
	crashWorkers = 3
	crashKills   = 32
)

type crashBlob struct {
	content []byte
	digest  digest.Digest
	g       piece.Geometry
}

func crashFixtures() []crashBlob {
	blobs := make([]crashBlob, crashBlobs)
	for k := range blobs {
		blobs[k] = crashFixture(uint64(1000+k), k*piece.MinSize/2+100+k)
	}
	return blobs
}

func crashFixture(seed uint64, size int) crashBlob {
	c := storetest.Content(seed, size)
	g, err := piece.GeometryOf(int64(size))
	if err != nil {
		panic(err)
	}
	return crashBlob{c, digest.FromBytes(c), g}
}

func (b crashBlob) piece(i int) []byte {
	return b.content[b.g.Offset(i) : b.g.Offset(i)+int64(b.g.Len(i))]
}

// crashChild is the child's whole life; in any other process it does nothing.
func crashChild() {
	dir := os.Getenv(crashDirEnv)
	if dir == "" {
		return
	}
	var seed uint64
	fmt.Sscan(os.Getenv(crashSeedEnv), &seed)
	if os.Getenv(crashEvictEnv) != "" {
		evictChild(dir, seed)
	}
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	blobs := crashFixtures()
	var wg sync.WaitGroup
	for w := range crashWorkers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for {
				// A blob belongs to one worker, so that what it says is in order.
				k := rng.IntN(crashBlobs/crashWorkers+1)*crashWorkers + w
				if k >= crashBlobs {
					continue
				}
				if err := crashStep(s, k, blobs[k], rng); err != nil {
					fmt.Println("error", k, err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
}

func crashStep(s *store.Store, k int, f crashBlob, rng *rand.Rand) error {
	switch rng.IntN(60) {
	case 0:
		storetest.Say("dropping %d", k)
		if err := s.Delete(f.digest); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return nil
	case 1:
		if err := s.Put(f.digest, f.content, store.Meta{MediaType: "put"}); err != nil {
			return err
		}
		storetest.Say("complete %d", k)
		return nil
	case 2:
		if err := s.Cache(f.digest, f.content); err != nil {
			return err
		}
		storetest.Say("complete %d", k)
		return nil
	case 3:
		path := filepath.Join(os.Getenv(crashDirEnv), "..", fmt.Sprint("upload-", k))
		if err := os.WriteFile(path, f.content, 0o600); err != nil {
			return err
		}
		if err := s.Adopt(f.digest, path, store.Meta{MediaType: "adopted"}); err != nil {
			return err
		}
		storetest.Say("complete %d", k)
		return nil
	}
	b, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		return err
	}
	defer b.Release()
	if b.Complete() {
		if rng.IntN(10) == 0 {
			storetest.Say("dropping %d", k)
			return s.Delete(f.digest)
		}
		return nil
	}
	i := rng.IntN(f.g.Count())
	switch rng.IntN(30) {
	case 0:
		storetest.Say("dropping %d", k)
		return b.Discard()
	case 1, 2, 3:
		if _, err := b.WriteRaw(i, f.piece(i), rng.IntN(2) == 0); err != nil {
			return err
		}
		storetest.Say("piece %d %d", k, i)
		return nil
	case 4:
		if !b.Raw().Has(i) {
			return nil
		}
		right, err := b.Confirm(i, piece.Sum(f.piece(i)))
		if err == nil && !right {
			err = fmt.Errorf("piece %d changed", i)
		}
		return err
	case 5, 6:
		// The runs are numbered, so that the parent sees whether one was lost.
		runs := b.Runs()
		if err := b.SetRuns(append(runs, []byte(fmt.Sprint(len(runs))))); err != nil {
			return err
		}
		storetest.Say("runs %d %d", k, len(runs)+1)
		return nil
	case 7:
		return b.SetMeta(store.Meta{MediaType: fmt.Sprint(rng.IntN(100))})
	}
	if _, err := b.WritePiece(i, f.piece(i)); err != nil {
		return err
	}
	storetest.Say("piece %d %d", k, i)
	if b.Have().Count()+b.Raw().Count() == f.g.Count() {
		if err := b.Commit(rng.IntN(2) == 0); err != nil {
			return err
		}
		storetest.Say("complete %d", k)
	}
	return nil
}

// promises is what the child has said of each blob and not taken back.
type promises struct {
	pieces   [crashBlobs]map[int]bool
	complete [crashBlobs]bool
	runs     [crashBlobs]int
}

func (p *promises) hear(line string) error {
	var k, n int
	switch word, rest, _ := strings.Cut(line, " "); word {
	case "dropping":
		fmt.Sscan(rest, &k)
		p.pieces[k], p.complete[k], p.runs[k] = nil, false, 0
	case "complete":
		fmt.Sscan(rest, &k)
		p.complete[k] = true
	case "piece":
		fmt.Sscan(rest, &k, &n)
		if p.pieces[k] == nil {
			p.pieces[k] = make(map[int]bool)
		}
		p.pieces[k][n] = true
	case "runs":
		fmt.Sscan(rest, &k, &n)
		p.runs[k] = n
	default:
		return fmt.Errorf("child: %s", line)
	}
	return nil
}

func TestSIGKILL(t *testing.T) {
	dir := t.TempDir()
	blobs := crashFixtures()
	rng := rand.New(rand.NewPCG(3, 4))
	var p promises
	lines, resumed, completed := 0, 0, 0
	kills := storetest.Kills(t, crashKills)
	for round := range kills {
		heard, err := storetest.KillAfter(1+rng.IntN(50), p.hear, crashDirEnv+"="+dir, fmt.Sprintf("%s=%d", crashSeedEnv, round))
		lines += heard
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		s, err := store.Open(dir, store.Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		r, c, err := p.kept(s, blobs)
		resumed, completed = resumed+r, completed+c
		if err == nil {
			err = errors.Join(s.Close(), noLeftovers(dir))
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	t.Logf("%d kills, %d acknowledged steps; after them %d pieces of partial blobs and %d complete blobs were checked", kills, lines, resumed, completed)
	if resumed == 0 || completed == 0 {
		t.Fatal("the child never got far enough for the test to mean something")
	}
}

// kept checks the store against what was promised of it.
func (p *promises) kept(s *store.Store, blobs []crashBlob) (partial, complete int, err error) {
	var used int64
	for k, f := range blobs {
		b, err := s.Blob(f.digest)
		if errors.Is(err, store.ErrNotFound) {
			if p.complete[k] || len(p.pieces[k]) > 0 || p.runs[k] > 0 {
				return 0, 0, fmt.Errorf("blob %d is lost", k)
			}
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		n, err := p.keptBlob(k, f, b)
		b.Release()
		if err != nil {
			return 0, 0, fmt.Errorf("blob %d: %w", k, err)
		}
		if b.Complete() {
			complete++
		} else {
			partial += n
		}
		for i := range b.Raw().All() {
			used += int64(f.g.Len(i))
		}
		for i := range b.Have().All() {
			used += int64(f.g.Len(i))
		}
	}
	if got := s.Usage().Used; got != used {
		return 0, 0, fmt.Errorf("%d bytes are accounted for, %d held", got, used)
	}
	return partial, complete, nil
}

func (p *promises) keptBlob(k int, f crashBlob, b *store.Blob) (pieces int, err error) {
	if p.complete[k] && !b.Complete() {
		return 0, errors.New("was complete and is not")
	}
	have, raw := b.Have(), b.Raw()
	for i := range p.pieces[k] {
		if !have.Has(i) && !raw.Has(i) {
			return 0, fmt.Errorf("piece %d is lost", i)
		}
	}
	for i := range have.All() {
		got, err := b.ReadPiece(i, nil)
		if err != nil || !bytes.Equal(got, f.piece(i)) {
			return 0, fmt.Errorf("piece %d is wrong: %v", i, err)
		}
	}
	runs := b.Runs()
	if len(runs) < p.runs[k] {
		return 0, fmt.Errorf("%d runs of %d", len(runs), p.runs[k])
	}
	for n, r := range runs {
		if string(r) != fmt.Sprint(n) {
			return 0, fmt.Errorf("run %d is %q", n, r)
		}
	}
	if b.Complete() {
		r := b.NewReader(context.Background(), store.ReadOptions{})
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, f.content) {
			return 0, fmt.Errorf("content is wrong: %v", err)
		}
	}
	return have.Count(), nil
}

// noLeftovers checks that Open removed what is neither complete nor partial.
func noLeftovers(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		parts := strings.Split(rel, string(filepath.Separator))
		if parts[0] == "trash" && len(parts) > 1 || strings.HasPrefix(e.Name(), ".") && rel != "." {
			return fmt.Errorf("leftover %s", rel)
		}
		if parts[0] == "blobs" && len(parts) == 4 {
			_, whole := os.Stat(filepath.Join(path, "data"))
			_, part := os.Stat(filepath.Join(path, "data.part"))
			_, pieces := os.Stat(filepath.Join(path, "pieces"))
			if (whole == nil) == (part == nil) || (part == nil) != (pieces == nil) {
				return fmt.Errorf("%s is neither complete nor partial", rel)
			}
		}
		return nil
	})
}
