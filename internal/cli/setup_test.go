package cli

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/hostconf"
)

// setupHost is the root of a host with containerd and dockerd.
func setupHost(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{
		"etc/containerd/config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
		"etc/docker/daemon.json":     "{\n  \"debug\": true\n}\n",
	} {
		p := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func setup(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	return execute(t.Context(), Peerd(noServe), append([]string{"setup"}, args...)...)
}

// plan, apply, verify and undo, as a person has them one after the other.
func TestSetup(t *testing.T) {
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	}))
	defer mirror.Close()
	root := setupHost(t)
	daemonJSON := filepath.Join(root, "etc/docker/daemon.json")
	before, err := os.ReadFile(daemonJSON)
	if err != nil {
		t.Fatal(err)
	}
	with := []string{"--root", root, "--mirror", mirror.URL, "--registry", "index.docker.io,ghcr.io"}
	for _, c := range []struct {
		args []string
		code int
		out  []string
		errs string
	}{
		{args: append([]string{"plan"}, with...), out: []string{"+++ /etc/containerd/certs.d/docker.io/hosts.toml\n", "+++ /etc/containerd/certs.d/ghcr.io/hosts.toml\n", "\n+  \"registry-mirrors\": [\"" + mirror.URL + "\"],\n"}},
		{args: append([]string{"verify"}, with...), code: 10, out: []string{"problem: containerd: not-configured"}, errs: "peerd: not proven: 3 problems\n"},
		{args: append([]string{"apply"}, with...), out: []string{"made /etc/containerd/certs.d/docker.io/hosts.toml\n", "changed /etc/docker/daemon.json\n", "note: docker: reload-needed"}},
		{args: append([]string{"apply"}, with...), out: []string{"nothing to change\n"}},
		{args: []string{"verify", "--root", root}, out: []string{"containerd: ghcr.io: asks " + mirror.URL + " first (/etc/containerd/certs.d/ghcr.io/hosts.toml)\n", "docker: docker.io: asks "}},
		{args: []string{"undo", "--root", root}, out: []string{"removed /etc/containerd/certs.d/docker.io/hosts.toml\n", "changed /etc/docker/daemon.json\n"}},
		{args: []string{"undo", "--root", root}, out: []string{"nothing to undo\n"}},
	} {
		code, out, errs := setup(t, c.args...)
		if code != c.code || errs != c.errs {
			t.Errorf("%v: exit status %d, %q; want %d, %q", c.args, code, errs, c.code, c.errs)
		}
		for _, want := range c.out {
			if !strings.Contains(out, want) {
				t.Errorf("%v prints\n%s\nwithout %q", c.args, out, want)
			}
		}
	}
	if after, err := os.ReadFile(daemonJSON); err != nil || string(after) != string(before) {
		t.Errorf("left %s, %v", after, err)
	}
}

// The exit status of verify is the lowest of its problems'.
func TestVerifyStatus(t *testing.T) {
	for _, c := range []struct {
		codes []string
		want  int
	}{
		{nil, 0},
		{[]string{"mirror-down"}, 13},
		{[]string{"mirror-down", "restart-needed", "config-path-missing"}, 11},
		{[]string{"mirror-is-another", "reload-needed"}, 12},
		{[]string{"mirror-is-another"}, 14},
		{[]string{"config-path-two-folders", "not-first"}, 10},
	} {
		r := &hostconf.Report{Notes: []hostconf.Note{{Code: "already-there"}}}
		for _, code := range c.codes {
			r.Notes = append(r.Notes, hostconf.Note{Code: code, Problem: true})
		}
		got := 0
		if own := (*withStatus)(nil); errors.As(unproven(r), &own) {
			got = own.status
		}
		if got != c.want {
			t.Errorf("%v: %d, want %d", c.codes, got, c.want)
		}
	}
}

// Without --registry the registries are those of the configuration, else of the
// seeder, else those that peerd remembers of it.
func TestSetupRegistries(t *testing.T) {
	in := daemon.Introduction{PeerID: "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5",
		Upstreams: []daemon.IntroduceUpstream{{Name: "docker.io"}, {Name: "registry.corp:5000"}}}
	seeder := httptest.NewServer(daemon.IntroductionHandler(func(string) daemon.Introduction { return in }))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	defer seeder.Close()
	root := setupHost(t)
	paths := func(args ...string) string {
		t.Helper()
		code, out, errs := setup(t, append([]string{"plan", "--json", "--runtime", "containerd", "--root", root}, args...)...)
		if code != 0 {
			return errs
		}
		var doc struct{ Changes []struct{ Path string } }
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			t.Fatal(err)
		}
		var dirs []string
		for _, c := range doc.Changes {
			dirs = append(dirs, filepath.Base(filepath.Dir(c.Path)))
		}
		return strings.Join(dirs, " ")
	}
	remember := func() {
		b, err := json.Marshal(map[string]any{"http://10.0.0.1:5000": map[string]any{"introduction": in}})
		if err == nil {
			err = os.MkdirAll(filepath.Join(root, "data"), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "data", "seeder.json"), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, want string
		args       []string
		first      func()
	}{
		{name: "flags", args: []string{"--registry", "quay.io"}, want: "quay.io"},
		{name: "upstreams", args: []string{"--upstream", "quay.io=https://quay.io", "--seeder", seeder.URL}, want: "quay.io _default"},
		{name: "seeder", args: []string{"--seeder", seeder.URL}, want: "docker.io registry.corp:5000 _default"},
		{name: "nothing", want: "peerd: which registries? name them with --registry, or the seeder that knows them with --seeder\n"},
		{name: "memory", args: []string{"--seeder", gone.URL, "--data", "/data"}, first: remember, want: "docker.io registry.corp:5000 _default"},
	} {
		if c.first != nil {
			c.first()
		}
		if got := paths(c.args...); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := paths("--seeder", gone.URL); !strings.Contains(got, "the seeder cannot be asked") {
		t.Errorf("seeder that is gone: %q", got)
	}
}

func TestSetupUsage(t *testing.T) {
	root := setupHost(t)
	empty := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"apply", "--root", empty, "--registry", "docker.io"}, "no container runtime is installed below " + empty + ": name one with --runtime"},
		{[]string{"apply", "--root", root, "--registry", "docker.io", "--capabilities", "resolve"}, "--capabilities resolve: want pull, or pull,resolve"},
		{[]string{"apply", "--root", root, "--registry", "docker.io", "--file", "docker"}, "--file docker: want RUNTIME=PATH"},
		{[]string{"apply", "--root", root, "--registry", "docker.io", "--listen", "127.0.0.1:0"}, "--listen \"127.0.0.1:0\": want HOST:PORT, or give --mirror"},
		{[]string{"apply", "--root", root, "--registry", "docker.io", "--state", "state"}, "state: the directory of the state has to be absolute"},
		{[]string{"apply", "--root", filepath.Join(root, "no")}, "no such file"},
	} {
		code, _, errs := setup(t, c.args...)
		if code != 1 || !strings.Contains(errs, c.want) {
			t.Errorf("%v: exit status %d, %q; want %q", c.args, code, errs, c.want)
		}
	}
	for listen, want := range map[string]string{":5050": "http://127.0.0.1:5050", "[::]:1": "http://127.0.0.1:1", "[::1]:5050": "http://[::1]:5050", "10.0.0.1:80": "http://10.0.0.1:80"} {
		if got, err := mirrorURL(listen); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", listen, got, err, want)
		}
	}
}

// A problem that is left to a person is exit status 3; the rest is done.
func TestSetupLeavesProblem(t *testing.T) {
	root := setupHost(t)
	hosts := filepath.Join(root, "etc/containerd/certs.d/ghcr.io/hosts.toml")
	if err := os.MkdirAll(filepath.Dir(hosts), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hosts, []byte("server = \n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs := setup(t, "apply", "--root", root, "--registry", "docker.io,ghcr.io", "--runtime", "containerd")
	if code != 3 || errs != "peerd: left to you: 1 problem\n" || !strings.Contains(out, "made /etc/containerd/certs.d/docker.io/hosts.toml\n") || !strings.Contains(out, "problem: containerd: not-edited: ") {
		t.Errorf("exit status %d\n%s%s", code, out, errs)
	}
}
