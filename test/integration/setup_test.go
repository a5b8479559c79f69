package integration

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/samara-p2p/samara/test/lab"
)

// setupWorld is a mirror that has an image of registry.test, which is nowhere
// else: a pull that works came from the mirror.
type setupWorld struct {
	t        *testing.T
	root     string // of the host that is set up
	mirror   string
	requests atomic.Int64
}

func newSetupWorld(t *testing.T) *setupWorld {
	t.Helper()
	w := &setupWorld{t: t, root: t.TempDir()}
	h := registry.New()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		h.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	w.mirror = srv.URL
	im, err := random.Image(1000, 3)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, name := range []string{"/app:v1", "/registry.test/app:v1"} { // with ?ns=, and without
		if err := crane.Push(im, host+name, crane.Insecure); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *setupWorld) setup(args ...string) {
	w.t.Helper()
	out, err := exec.CommandContext(w.t.Context(), binaries.Peerd, append([]string{"setup"}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("peerd setup %v: %v\n%s", args, err, out)
	}
}

// pulls wants that a pull fails before setup and after undo, and works between,
// and that the file is as it was.
func (w *setupWorld) pulls(file string, runtime string, pull func() error) {
	t := w.t
	t.Helper()
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := pull(); err == nil {
		t.Fatal("the image is elsewhere, too")
	}
	flags := []string{"--root", w.root, "--runtime", runtime, "--registry", "registry.test", "--mirror", w.mirror}
	w.setup(append([]string{"apply"}, flags...)...)
	w.setup(append([]string{"verify"}, flags...)...)
	asked := w.requests.Load()
	if err := pull(); err != nil {
		t.Errorf("after apply: %v", err)
	}
	if n := w.requests.Load() - asked; n < 5 {
		t.Errorf("the mirror was asked %d times for a manifest, a configuration and three layers", n)
	}
	w.setup("undo", "--root", w.root)
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("undo left %q, %v", after, err)
	}
}

func TestSetupContainerd(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	if err := lab.MissingContainerd(); err != nil {
		t.Skip(err)
	}
	w := newSetupWorld(t)
	h, err := lab.ForTest(t, lab.Options{Rate: -1, Loopback: true}).NewHost("node", 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const nowhere = "http://127.0.0.1:1"
	c, err := lab.StartContainerd(ctx, h, "registry.test", nowhere, "")
	if err != nil {
		t.Fatal(err)
	}
	// ctr reads the directory that it is told, as CRI does config_path.
	etc := filepath.Join(w.root, "etc", "containerd")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	config := "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n"
	if err := os.WriteFile(filepath.Join(etc, "config.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(h.Dir(), "certs.d"), filepath.Join(etc, "certs.d")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(etc, "certs.d"), filepath.Join(h.Dir(), "certs.d")); err != nil {
		t.Fatal(err)
	}
	w.pulls(filepath.Join(etc, "certs.d", "registry.test", "hosts.toml"), "containerd", func() error {
		_, err := c.Pull(ctx, "app", "v1")
		return err
	})
}

func TestSetupSkopeo(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	skopeo, err := lookClient("skopeo")
	if err != nil {
		t.Skipf("skopeo is not installed: %s", packageOf["skopeo"])
	}
	w := newSetupWorld(t)
	conf := filepath.Join(w.root, "etc", "containers", "registries.conf")
	if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "unqualified-search-registries = [\"docker.io\"]\n\n[[registry]]\nprefix = \"registry.test\"\nlocation = \"127.0.0.1:1\"\ninsecure = true"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	n := 0
	w.pulls(conf, "podman", func() error {
		n++
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, skopeo, "--registries-conf", conf, "--insecure-policy", "copy", "--retry-times", "0", "docker://registry.test/app:v1", "dir:"+filepath.Join(t.TempDir(), "image"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("pull %d: %s", n, out)
		}
		return err
	})
}
