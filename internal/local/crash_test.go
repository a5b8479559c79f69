package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// The crash test runs this binary again as a child that pushes, mounts and
// deletes, and says on stdout what it was told is done. The parent kills it
// with SIGKILL in the middle and opens what is left: it must open by itself,
// have everything that was done, and no wrong byte. SAMARA_CRASH_KILLS=100 for
// a long run.

const (
	crashDirEnv   = "SAMARA_LOCAL_CRASH_DIR"
	crashSeedEnv  = "SAMARA_LOCAL_CRASH_SEED"
	crashRepos    = 3
	crashLayers   = 5
	crashKills    = 10
	crashKillsEnv = "SAMARA_CRASH_KILLS"
)

func crashRepo(k int) string { return fmt.Sprintf("team/app%d", k) }

func crashLayer(i int) []byte { return storetest.Content(uint64(500+i), 1+i*i*40_000) }

// crashImage is the image of layer i; its config is empty.
func crashImage(i int) []byte {
	l := crashLayer(i)
	return imageOf(digest.FromBytes(nil), 0, digest.FromBytes(l), len(l), "")
}

func crashOpen(dir string) (*store.Store, *Registry, error) {
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return nil, nil, err
	}
	r, err := Open(Options{Dir: filepath.Join(dir, "registry"), Store: s, Upstream: "reg.test", IsLocal: func(registry.Name) bool { return true }})
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
	_, r, err := crashOpen(dir)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for k := range crashRepos { // a repository belongs to one goroutine, so that what it says is in order
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(k)))
			for {
				if err := crashStep(r, k, rng); err != nil {
					fmt.Println("error", k, err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
}

// say reports in one write, which a pipe keeps whole.
func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

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
		say("deleting %d %d", k, i)
		var e *registry.Error
		if err := r.Delete(ctx, req, registry.Condition{}); !errors.As(err, &e) {
			return err
		}
		return nil
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
	say("pushed %d %d", k, i)
	return nil
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
func (w *crashWhat) check(dir string) (err error) {
	s, r, err := crashOpen(dir)
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
	kills := crashKills
	if s := os.Getenv(crashKillsEnv); s != "" {
		fmt.Sscan(s, &kills)
	}
	for kill := range kills {
		n, err := runAndKill(dir, uint64(kill), 1+rng.IntN(40), &w)
		if err == nil {
			err = w.check(dir)
		}
		if err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		pushed += n
	}
	if pushed < kills {
		t.Errorf("only %d things were done", pushed)
	}
}

// runAndKill lets a child work until it has said n things, kills it, and takes
// note of all it had said by then.
func runAndKill(dir string, seed uint64, n int, w *crashWhat) (heard int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), crashDirEnv+"="+dir, fmt.Sprintf("%s=%d", crashSeedEnv, seed))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if err == nil {
			err = w.hear(lines.Text())
		}
		if heard++; heard == n {
			c.Process.Kill() // SIGKILL; the pipe holds what was said before
		}
	}
	if werr := c.Wait(); werr == nil || !strings.Contains(werr.Error(), "killed") {
		err = errors.Join(err, fmt.Errorf("child was not killed: %v", werr))
	}
	return heard, err
}
