package transfer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

func TestMain(m *testing.M) {
	crashChild()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// openDirect opens the data directory of a seeder to which all names are local.
func openDirect(dir string) (*Direct, error) {
	names, err := registry.NewResolver([]string{"docker.io"}, "docker.io")
	if err == nil {
		err = names.SetLocal(registry.Local{Names: []string{"local"}, Prefixes: []string{"*"}})
	}
	if err != nil {
		return nil, err
	}
	return OpenDirect(dir, names, store.Options{}, func(s *store.Store) (*local.Registry, error) {
		return local.Open(local.Options{Dir: filepath.Join(dir, "registry"), Store: s, Upstream: "local", IsLocal: names.IsLocal})
	})
}

// newDirect opens a data directory until the test ends.
func newDirect(t *testing.T, dir string) *Direct {
	t.Helper()
	d, err := openDirect(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// copyAll moves items and wants no error of the target.
func copyAll(t *testing.T, src Source, to Target, items []Item, change ...func(*Copier)) *Report {
	t.Helper()
	c := &Copier{Source: src, Target: to, Progress: &Progress{}, Report: NewReport(), Jobs: 2, Referrers: true}
	for _, f := range change {
		f(c)
	}
	if err := c.Run(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if c.Progress.Images.Load() != int64(len(items)) || c.Progress.Total.Load() != int64(len(items)) {
		t.Errorf("progress: %d of %d images, of %d", c.Progress.Images.Load(), c.Progress.Total.Load(), len(items))
	}
	return c.Report
}

// complete wants an image with all that it names, each byte right.
func complete(t *testing.T, src Source, repo, ref string, want digest.Digest) {
	t.Helper()
	ctx := context.Background()
	m, err := src.Manifest(ctx, repo, ref)
	if err != nil {
		t.Fatalf("%s %s: %v", repo, ref, err)
	}
	if got := want.Algorithm().FromBytes(m.Content); got != want {
		t.Fatalf("%s %s: digest %s, want %s", repo, ref, got, want)
	}
	p, err := registry.Parse(m.MediaType, m.Content)
	if err != nil || p.Kind == registry.KindUnknown {
		t.Fatalf("%s %s: %v, %v", repo, ref, p, err)
	}
	for _, d := range p.Children {
		if p.Kind == registry.KindIndex {
			complete(t, src, repo, d.Digest.String(), d.Digest)
			continue
		}
		c, err := src.Blob(ctx, repo, d)
		if err != nil {
			t.Fatalf("%s %s: blob %s: %v", repo, ref, d.Digest, err)
		}
		v := d.Digest.Verifier()
		_, err = io.Copy(v, c)
		if err = errors.Join(err, c.Close()); err != nil || !v.Verified() {
			t.Fatalf("%s %s: blob %s: wrong bytes, %v", repo, ref, d.Digest, err)
		}
	}
}

// dockerRegistry is Debian's docker-registry and its data directory.
type dockerRegistry struct {
	t    *testing.T
	dir  string
	addr string
	opts []remote.Option
}

func startDockerRegistry(t *testing.T) *dockerRegistry {
	t.Helper()
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed (apt install docker-registry): its data directory is not tested")
	}
	r := &dockerRegistry{t: t, dir: t.TempDir()}
	config := filepath.Join(t.TempDir(), "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\nhttp: {addr: '127.0.0.1:0'}\n", r.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "serve", config)
	cmd.WaitDelay = 5 * time.Second
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = pw, pw
	err = cmd.Start()
	_ = pw.Close()
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	r.opts = []remote.Option{remote.WithTransport(tr)}
	drained := make(chan struct{})
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		<-drained
		_ = pr.Close()
	})
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	found := make(chan string, 1)
	go func() {
		defer close(drained)
		defer close(found)
		lines := bufio.NewScanner(pr)
		for lines.Scan() {
			if m := listening.FindSubmatch(lines.Bytes()); m != nil {
				found <- string(m[1])
			}
		}
	}()
	if r.addr = <-found; r.addr == "" {
		t.Fatal("docker-registry did not begin to listen")
	}
	return r
}

func (r *dockerRegistry) ref(s string) name.Reference {
	r.t.Helper()
	ref, err := name.ParseReference(r.addr+"/"+s, name.Insecure)
	if err != nil {
		r.t.Fatal(err)
	}
	return ref
}

// push pushes an image or an index.
func (r *dockerRegistry) push(s string, what any) digest.Digest {
	r.t.Helper()
	var err error
	var h v1.Hash
	switch w := what.(type) {
	case v1.Image:
		if err = remote.Write(r.ref(s), w, r.opts...); err == nil {
			h, err = w.Digest()
		}
	case v1.ImageIndex:
		if err = remote.WriteIndex(r.ref(s), w, r.opts...); err == nil {
			h, err = w.Digest()
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return digest.Digest(h.String())
}

// items are all that a distribution directory has, under the same names.
func items(t *testing.T, s *Distribution) []Item {
	t.Helper()
	list, err := crashItems(s)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func image(t *testing.T, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(100_000, layers)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func index(t *testing.T) v1.ImageIndex {
	t.Helper()
	idx, err := random.Index(5_000, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: image(t, int64(i+1)),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return idx
}

// fingerprint is of all files of a tree: names, modes, owners' times, bytes.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintln(&all, strings.TrimPrefix(path, dir), fi.Mode(), fi.ModTime(), sha256.Sum256(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
