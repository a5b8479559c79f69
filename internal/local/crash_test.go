package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/retention"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// The crash test kills a child (storetest.KillAfter) that pushes, mounts, deletes
// and restores while it collects by rules of retention and time passes in leaps.
// What is left must open by itself, have everything that was done, and no wrong
// byte; in the end, collections leave nothing else.
// SAMARA_CRASH_KILLS=100 for a long run.

const (
	crashDirEnv  = "SAMARA_LOCAL_CRASH_DIR"
	crashSeedEnv = "SAMARA_LOCAL_CRASH_SEED"
	crashRepos   = 3
	crashLayers  = 5
	crashKills   = 10

	// What the rules keep is what the child says that it pushed.
	crashRules = "- repositories: '**'\n  keep: [{tags: 'v*'}]\n"
	// A child's time leaps within a span, the next one's begins after it.
	crashSpan = 30 * day
)

// crashClock is the time of the child of one seed.
type crashClock struct {
	leap  sync.RWMutex // held shared by who relies on a lease
	ahead atomic.Int64
	step  chan struct{} // after which there may be something to collect
}

func newCrashClock(seed uint64) *crashClock {
	c := &crashClock{step: make(chan struct{}, 1)}
	c.ahead.Store(int64(seed) * int64(crashSpan))
	return c
}

func (c *crashClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func crashRepo(k int) string { return fmt.Sprintf("team/app%d", k) }

func crashLayer(i int) []byte { return storetest.Content(uint64(500+i), 1+i*i*40_000) }

// crashImage is the image of layer i; its config is empty.
func crashImage(i int) []byte {
	l := crashLayer(i)
	return imageOf(digest.FromBytes(nil), 0, digest.FromBytes(l), len(l), "")
}

func crashOpen(dir string, clock *crashClock) (*store.Store, *Registry, error) {
	rules, err := retention.Parse([]byte(crashRules), nil)
	if err != nil {
		return nil, nil, err
	}
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return nil, nil, err
	}
	r, err := Open(Options{Dir: filepath.Join(dir, "registry"), Store: s, Upstream: "reg.test", IsLocal: func(registry.Name) bool { return true },
		Now: clock.now, Retention: rules, TrashPeriod: 2 * day})
	return s, r, err
}

// crashChild is the child's whole life; in any other process it does nothing.
func crashChild() {
	dir := os.Getenv(crashDirEnv)
	if dir == "" {
		return
	}
	var seed uint64
	fmt.Sscan(os.Getenv(crashSeedEnv), &seed)
	clock := newCrashClock(seed)
	_, r, err := crashOpen(dir, clock)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for k := range crashRepos { // a repository belongs to one goroutine, so that what it says is in order
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(k)))
			for {
				clock.leap.RLock()
				err := crashStep(r, k, rng)
				clock.leap.RUnlock()
				select {
				case clock.step <- struct{}{}:
				default:
				}
				if err != nil {
					fmt.Println("error", k, err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Go(func() { crashCollect(r, clock, rand.New(rand.NewPCG(seed, crashRepos))) })
	wg.Wait()
}

// crashCollect collects while there is work, and moves the time.
func crashCollect(r *Registry, clock *crashClock, rng *rand.Rand) {
	left := crashSpan
	for range clock.step {
		if p, err := r.Collect(context.Background(), CollectOptions{}); err != nil || len(p.Problems) > 0 {
			fmt.Println("error", err, p.Problems)
			os.Exit(1)
		}
		step := time.Duration(rng.IntN(20)) * time.Hour
		if left -= step; left > 0 {
			clock.leap.Lock()
			clock.ahead.Add(int64(step))
			clock.leap.Unlock()
		}
	}
}

// bytesBody is a registry.Body.
type bytesBody struct{ io.Reader }

func (bytesBody) Interrupt() {}

func crashStep(r *Registry, k int, rng *rand.Rand) error {
	ctx, n, i := context.Background(), r.name(crashRepo(k)), rng.IntN(crashLayers)
	layer := crashLayer(i)
	d := digest.FromBytes(layer)
	if rng.IntN(8) == 0 {
		req := registry.Request{Name: n, Reference: fmt.Sprint("v", i)}
		if rng.IntN(2) == 0 {
			req.Digest = digest.FromBytes(crashImage(i))
		}
		storetest.Say("deleting %d %d", k, i)
		err := r.Delete(ctx, req, registry.Condition{})
		var e *registry.Error
		if errors.As(err, &e) {
			return nil
		}
		if err != nil || rng.IntN(2) == 0 {
			return err
		}
		if _, err := r.Restore(ctx, n.Repository, fmt.Sprint("v", i)); err != nil {
			return err
		}
		storetest.Say("pushed %d %d", k, i)
		return nil
	}
	if rng.IntN(4) == 0 { // for the collector
		if err := crashLoose(ctx, r, n, rng); err != nil {
			return err
		}
	}
	if done, err := r.Mount(ctx, n, d, registry.Name{}); err != nil || !done || rng.IntN(3) == 0 {
		if err == nil {
			err = crashPush(ctx, r, n, layer, d, rng)
		}
		if err != nil {
			return err
		}
	}
	if err := crashPush(ctx, r, n, nil, digest.FromBytes(nil), rng); err != nil {
		return err
	}
	content := crashImage(i)
	p := registry.Put{Tags: []string{fmt.Sprint("v", i)}}
	p.Digest, p.MediaType, p.Content = digest.FromBytes(content), ocispec.MediaTypeImageManifest, content
	if _, err := r.PutManifest(ctx, n, p); err != nil {
		return err
	}
	storetest.Say("pushed %d %d", k, i)
	return nil
}

// crashLoose pushes an image that no rule keeps.
func crashLoose(ctx context.Context, r *Registry, n registry.Name, rng *rand.Rand) error {
	layer := fmt.Appendf(nil, "loose %d", rng.Uint64())
	for _, blob := range [][]byte{layer, nil} {
		if err := crashPush(ctx, r, n, blob, digest.FromBytes(blob), rng); err != nil {
			return err
		}
	}
	p := registry.Put{Tags: []string{"loose"}}
	p.Content = imageOf(digest.FromBytes(nil), 0, digest.FromBytes(layer), len(layer), "")
	p.Digest, p.MediaType = digest.FromBytes(p.Content), ocispec.MediaTypeImageManifest
	_, err := r.PutManifest(ctx, n, p)
	return err
}

// crashPush pushes a blob in chunks; sometimes it is given up.
func crashPush(ctx context.Context, r *Registry, n registry.Name, content []byte, d digest.Digest, rng *rand.Rand) error {
	for {
		u, err := r.StartUpload(ctx, n, digest.SHA256)
		if err != nil {
			return err
		}
		half := rng.IntN(len(content) + 1)
		for _, part := range [][]byte{content[:half], content[half:]} {
			if _, err := u.Append(ctx, -1, bytesBody{bytes.NewReader(part)}); err != nil {
				return err
			}
		}
		if rng.IntN(10) == 0 {
			if err := u.Cancel(ctx); err != nil {
				return err
			}
			continue
		}
		return u.Commit(ctx, d)
	}
}

// crashWhat is what the child has said of each image and not taken back.
type crashWhat [crashRepos][crashLayers]bool

func (w *crashWhat) hear(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	var k, i int
	if _, err := fmt.Sscan(rest, &k, &i); err != nil || word == "error" {
		return fmt.Errorf("child: %s", line)
	}
	w[k][i] = word == "pushed"
	return nil
}

// check holds what is there to what was promised.
func (w *crashWhat) check(dir string, clock *crashClock) (err error) {
	s, r, err := crashOpen(dir, clock)
	if err != nil {
		return err
	}
	defer func() {
		r.Close()
		err = errors.Join(err, s.Close())
	}()
	ctx := context.Background()
	for k := range crashRepos {
		for i := range crashLayers {
			n := r.name(crashRepo(k))
			m, err := r.Manifest(ctx, registry.Request{Name: n, Reference: fmt.Sprint("v", i)})
			if err != nil {
				if w[k][i] {
					return fmt.Errorf("image %d of %s is lost: %w", i, n, err)
				}
				continue
			}
			// Whoever sees a manifest can pull it all.
			if !bytes.Equal(m.Content, crashImage(i)) {
				return fmt.Errorf("image %d of %s has other bytes", i, n)
			}
			layer := crashLayer(i)
			blob, err := r.Blob(ctx, registry.Request{Name: n, Digest: digest.FromBytes(layer)})
			if err != nil {
				return fmt.Errorf("layer %d of %s: %w", i, n, err)
			}
			got, err := io.ReadAll(blob.Content)
			if err = errors.Join(err, blob.Content.Close()); err != nil || !bytes.Equal(got, layer) {
				return fmt.Errorf("layer %d of %s has other bytes: %w", i, n, err)
			}
			in, err := s.Stat(digest.FromBytes(layer))
			if err != nil || !in.Kept {
				return fmt.Errorf("layer %d of %s can be evicted: %w", i, n, err)
			}
		}
	}
	return nil
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	var w crashWhat
	pushed := 0
	rng := rand.New(rand.NewPCG(7, 7))
	kills := storetest.Kills(t, crashKills)
	for kill := range kills {
		n, err := storetest.KillAfter(1+rng.IntN(40), w.hear, crashDirEnv+"="+dir, fmt.Sprintf("%s=%d", crashSeedEnv, kill))
		if err == nil {
			err = w.check(dir, newCrashClock(uint64(kill+1)))
		}
		if err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		pushed += n
	}
	if pushed < kills {
		t.Errorf("only %d things were done", pushed)
	}
	w.leftovers(t, dir, newCrashClock(uint64(kills+1)))
}

// leftovers lets everything go that may, and wants nothing but images.
func (w *crashWhat) leftovers(t *testing.T, dir string, clock *crashClock) {
	t.Helper()
	s, r, err := crashOpen(dir, clock)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		clock.ahead.Add(int64(4 * day))
		if p, err := r.Collect(t.Context(), CollectOptions{}); err != nil || len(p.Problems) > 0 {
			t.Errorf("%v, %v", err, p.Problems)
		}
	}
	known := map[digest.Digest]bool{digest.FromBytes(nil): true}
	for i := range crashLayers {
		known[digest.FromBytes(crashLayer(i))], known[digest.FromBytes(crashImage(i))] = true, true
	}
	for _, in := range s.Infos() {
		if !known[in.Digest] {
			t.Errorf("%s is left over, of %d bytes", in.Digest, in.Size)
		}
	}
	r.Close()
	if err := errors.Join(s.Close(), w.check(dir, clock)); err != nil {
		t.Error(err)
	}
}
