package node

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/samara-p2p/samara/test/lab"
)

// runtime is one that is set up.
type runtime struct {
	name  string            // for --runtime
	reads func(note string) // has it read its files, as a note of setup says
	pull  func() error
	clean func() // forgets the image
}

// Each runtime is set up in a host where it was configured by hand: what could not
// be pulled before comes through the mirror then; undone, every file is as it was,
// and it cannot be pulled any more. contract 16, 23
func TestSetup(t *testing.T) {
	const image = "docker.io/library/app:v1"
	for _, c := range []struct {
		name  string
		start func(*testing.T, *lab.Host) runtime
	}{
		{"containerd 1.6", func(t *testing.T, h *lab.Host) runtime { return criRuntime(t, h, "containerd", 2, image) }},
		{"containerd 2", func(t *testing.T, h *lab.Host) runtime { return criRuntime(t, h, "containerd2", 3, image) }},
		{"dockerd", func(t *testing.T, h *lab.Host) runtime {
			s := dockerd(t, h)
			docker := needs(t, "docker", "package docker.io")
			return runtime{"docker", func(note string) {
				if !strings.Contains(note, "reload docker") {
					s.restart()
					return
				}
				if err := syscall.Kill(s.p.Pid(), syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := lab.Eventually(ctx, func() error {
					if out := output(t, docker, "info", "--format", "{{.RegistryConfig.Mirrors}}"); strings.Contains(out, "[]") {
						return errors.New("not reloaded")
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}, func() error { return run1(t, docker, "pull", "--quiet", image) }, func() { _ = run1(t, docker, "rmi", image) }}
		}},
		{"podman", func(t *testing.T, _ *lab.Host) runtime {
			podman := needs(t, "podman", "package podman")
			write(t, "/etc/containers/registries.conf", "unqualified-search-registries = [\"docker.io\"]\n\n# corp\n[[registry]]\nprefix = \"registry.corp\"\nlocation = \"registry.corp\"")
			write(t, "/etc/containers/registries.conf.d/00-shortnames.conf", "[aliases]\n  \"app\" = \"docker.io/library/app\"\n")
			return runtime{"podman", func(string) {}, func() error { return run1(t, podman, "pull", "--quiet", image) }, func() { _ = run1(t, podman, "rmi", image) }}
		}},
		{"skopeo, with an entry of docker.io", func(t *testing.T, _ *lab.Host) runtime {
			skopeo := needs(t, "skopeo", "package skopeo")
			write(t, "/etc/containers/registries.conf", "[[registry]]\r\nlocation = \"docker.io\"\r\n\r\n[[registry.mirror]]\r\nlocation = \"127.0.0.1:1\"\r\n")
			return runtime{"podman", func(string) {}, func() error {
				return run1(t, skopeo, "copy", "--quiet", "--insecure-policy", "docker://"+image, "dir:"+t.TempDir())
			}, func() {}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if outside != "" {
				t.Skip(outside)
			}
			h, err := lab.ForTest(t, lab.Options{Rate: -1, Loopback: true}).NewHost("node", 0)
			if err != nil {
				t.Fatal(err)
			}
			r := c.start(t, h)
			m := startMirror(t, h)
			m.proves(t, r)
		})
	}
}

func run1(t *testing.T, name string, args ...string) error {
	out, err := try(t, name, args...)
	if err != nil {
		t.Logf("%s %s: %v: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(out))
	}
	return err
}

// criRuntime is a containerd that pulls as for a kubelet.
func criRuntime(t *testing.T, h *lab.Host, program string, format int, image string) runtime {
	cripull := needs(t, "cripull", "make runtimes")
	s := containerd(t, h, program, format)
	return runtime{"containerd", func(note string) {
		if !strings.Contains(note, "restart containerd") {
			t.Errorf("no restart is asked for in %s", note)
		}
		s.restart()
	}, func() error { return run1(t, cripull, "-timeout", "1m", "pull", image) },
		func() { _ = run1(t, cripull, "remove", image) }}
}

// mirror is a registry that has an image of docker.io that is nowhere else.
type mirror struct {
	url      string
	requests atomic.Int64
}

func startMirror(t *testing.T, h *lab.Host) *mirror {
	l, err := h.Listen(lab.MirrorPort)
	if err != nil {
		t.Fatal(err)
	}
	m := &mirror{url: "http://" + l.Addr().String()}
	reg := registry.New(registry.Logger(quiet()))
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.requests.Add(1)
		reg.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	im, err := random.Image(1000, 3)
	for _, name := range []string{"/library/app:v1", "/docker.io/library/app:v1"} { // with ?ns=, and without
		if err == nil {
			err = crane.Push(im, l.Addr().String()+name, crane.Insecure)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func setup(t *testing.T, args ...string) string {
	t.Helper()
	return output(t, binaries.Peerd, append([]string{"setup"}, args...)...)
}

func (m *mirror) proves(t *testing.T, r runtime) {
	before := etc(t)
	if r.pull() == nil {
		t.Fatal("the image is elsewhere, too")
	}
	flags := []string{"--runtime", r.name, "--registry", "docker.io", "--mirror", m.url, "--write-config-path"}
	setup(t, append([]string{"plan"}, flags...)...)
	if !maps.Equal(etc(t), before) {
		t.Fatal("plan has changed files")
	}
	note := setup(t, append([]string{"apply"}, flags...)...)
	applied := etc(t)
	if maps.Equal(applied, before) {
		t.Fatal("apply has changed nothing")
	}
	if out := setup(t, append([]string{"apply"}, flags...)...); !strings.HasPrefix(out, "nothing to change\n") || !maps.Equal(etc(t), applied) {
		t.Errorf("apply twice says %s", out)
	}
	r.reads(note)
	setup(t, "verify")
	asked := m.requests.Load()
	if err := r.pull(); err != nil {
		t.Errorf("after apply: %v", err)
	}
	if n := m.requests.Load() - asked; n < 5 {
		t.Errorf("the mirror was asked %d times for a manifest, a configuration and three layers", n)
	}
	r.clean()
	note = setup(t, "undo")
	if after := etc(t); !maps.Equal(after, before) {
		t.Errorf("undo left\n%q\nwhere there was\n%q", after, before)
	}
	r.reads(note)
	if r.pull() == nil {
		t.Error("after undo the image can still be pulled")
	}
}

// etc is every file of the runtimes' directories: modes and bytes.
func etc(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, dir := range []string{"/etc/containerd", "/etc/docker", "/etc/containers", "/etc/buildkit"} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				if path == dir {
					return nil // not installed
				}
				return err
			}
			in, err := e.Info()
			if err != nil {
				return err
			}
			found[path] = in.Mode().String()
			if in.Mode().IsRegular() {
				b, err := os.ReadFile(path)
				found[path] += "\n" + string(b)
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// Where a directory is on a read-only file system, as in images of hosts, apply says
// so and leaves every file as it was. A file that is only marked read-only is
// edited, and stays marked.
func TestSetupReadOnly(t *testing.T) {
	needs(t, "containerd", "package containerd")
	needs(t, "dockerd", "package docker.io")
	write(t, containerdFile, "version = 2\n")
	if err := os.Chmod(containerdFile, 0o444); err != nil {
		t.Fatal(err)
	}
	write(t, dockerFile, "{}")
	t.Cleanup(func() { os.Remove(containerdFile); os.Remove(dockerFile) })
	before := etc(t)
	flags := []string{"setup", "apply", "--runtime", "containerd,docker", "--registry", "docker.io", "--mirror", "http://127.0.0.1:5050", "--write-config-path"}
	dir := filepath.Dir(dockerFile)
	output(t, "mount", "-o", "remount,ro", dir)
	out, err := try(t, binaries.Peerd, flags...)
	output(t, "mount", "-o", "remount,rw", dir)
	if err == nil || !strings.Contains(out, dockerFile+": read-only file system") || !strings.Contains(out, "every file is as it was before") {
		t.Errorf("apply says %s, %v", out, err)
	}
	if after := etc(t); !maps.Equal(after, before) {
		t.Errorf("a failed apply left\n%q\nwhere there was\n%q", after, before)
	}
	output(t, binaries.Peerd, flags...)
	if after := etc(t); !strings.HasPrefix(after[containerdFile], "-r--r--r--\n") || after[containerdFile] == before[containerdFile] {
		t.Errorf("apply left %q", after[containerdFile])
	}
	setup(t, "undo")
	if after := etc(t); !maps.Equal(after, before) {
		t.Errorf("undo left\n%q\nwhere there was\n%q", after, before)
	}
}
