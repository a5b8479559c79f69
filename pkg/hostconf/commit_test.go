package hostconf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A host with something of every runtime: files to edit, and files to make.
func mixedHost(t testing.TB) *Host {
	return newHost(t, map[string]string{
		"/etc/containerd/config.toml":                   "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"\"\n",
		"/etc/containerd/certs.d/quay.io/hosts.toml":    "server = \"https://quay.io\"\n",
		"/etc/docker/daemon.json":                       "{\n\t\"debug\": true\n}\n",
		"/etc/containers/registries.conf":               "[[registry]]\nprefix = \"quay.io\"\nlocation = \"quay.io\"",
		"/etc/containers/registries.conf.d/README":      "stray\n",
		"/etc/containerd/certs.d/registry.corp/ca.crt":  "PEM\n",
		"/etc/containerd/certs.d/registry.corp/notes/x": "stray\n",
	})
}

func mixedSettings() Settings {
	s := settings("docker.io", "quay.io", "registry.corp", DefaultRegistry)
	s.WriteConfigPath = true
	return s
}

// crash is what the process does that ends at a step.
type crash struct{}

// untilCrash runs f, and tells whether it ended at step n.
func untilCrash(h *Host, n int, f func()) (crashed bool) {
	h.root.step = func(string) error {
		if n--; n < 0 {
			panic(crash{})
		}
		return nil
	}
	defer func() {
		h.root.step = nil
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	f()
	return false
}

// From each step at which an apply, an apply with other settings, or an undo may
// end, undo leads back, and apply leads on.
func TestCrash(t *testing.T) {
	other := mixedSettings()
	other.Mirror, other.Registries, other.Runtimes = "http://127.0.0.1:6060", []string{"docker.io", "ghcr.io", "quay.io"}, []Runtime{Containerd, Podman}
	clean := mixedHost(t)
	apply(t, clean, mixedSettings())
	applied := tree(t, clean)
	for name, act := range map[string]func(t *testing.T, h *Host){
		"apply": func(t *testing.T, h *Host) { apply(t, h, mixedSettings()) },
		"apply anew": func(t *testing.T, h *Host) {
			apply(t, h, other)
		},
		"undo": func(t *testing.T, h *Host) { undo(t, h) },
	} {
		for _, mend := range []string{"undo", "apply"} {
			t.Run(name+" then "+mend, func(t *testing.T) {
				for n := 0; ; n++ {
					h := mixedHost(t)
					before := tree(t, h)
					if name != "apply" {
						apply(t, h, mixedSettings())
					}
					crashed := untilCrash(h, n, func() { act(t, h) })
					if mend == "apply" {
						apply(t, h, mixedSettings())
						sameTree(t, fmt.Sprintf("apply after step %d", n), tree(t, h), applied)
					}
					undo(t, h)
					sameTree(t, fmt.Sprintf("undo after step %d", n), tree(t, h), before)
					if h.root.exists(h.stateDir) {
						t.Errorf("after step %d the state is left", n)
					}
					if t.Failed() || !crashed {
						if n < 5 {
							t.Errorf("only %d steps", n)
						}
						return
					}
				}
			})
		}
	}
}

// A step that fails leaves everything as it was before.
func TestFailedApply(t *testing.T) {
	broken := errors.New("read-only file system")
	for n := 0; ; n++ {
		h := mixedHost(t)
		before := tree(t, h)
		p := plan(t, h, mixedSettings())
		left := n
		h.root.step = func(string) error {
			if left--; left == -1 {
				return broken
			}
			return nil
		}
		err := p.Commit()
		h.root.step = nil
		if err == nil {
			if n < 10 {
				t.Errorf("only %d steps", n)
			}
			return
		}
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "as it was before") && !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("step %d: %v", n, err)
		}
		sameTree(t, fmt.Sprintf("step %d", n), tree(t, h), before)
		undo(t, h)
		sameTree(t, fmt.Sprintf("undo after step %d", n), tree(t, h), before)
	}
}

// What may not be written. test/node has a file system that is read-only, for root.
func TestReadOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	h := mixedHost(t)
	before := tree(t, h)
	dir := h.root.at("/etc/docker")
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	p := plan(t, h, mixedSettings())
	if err := p.Commit(); err == nil || !strings.Contains(err.Error(), "/etc/docker/daemon.json: permission denied; every file is as it was before") {
		t.Errorf("got %v", err)
	}
	sameTree(t, "failed apply", tree(t, h), before)
}

// Somebody edits a file between plan and apply.
func TestEditedMeanwhile(t *testing.T) {
	h := mixedHost(t)
	p := plan(t, h, mixedSettings())
	write(t, h, "/etc/docker/daemon.json", "{}\n")
	before := tree(t, h)
	if err := p.Commit(); err == nil || !strings.Contains(err.Error(), "edited it meanwhile") {
		t.Errorf("got %v", err)
	}
	sameTree(t, "apply", tree(t, h), before)
}

// What undo needs is root's alone; the directory above is for daemons, too.
func TestStateDirectory(t *testing.T) {
	h := newHost(t, nil)
	unlock, err := h.lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	for dir, want := range map[string]os.FileMode{"/var/lib/samara": 0o755, "/var/lib/samara/setup": 0o700} {
		info, err := os.Stat(h.root.at(dir))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, want mode %o (%v)", dir, info.Mode(), want, err)
		}
	}
}

// Two setups at once: the later one has to plan anew.
func TestTwoSetups(t *testing.T) {
	h := mixedHost(t)
	late := plan(t, h, settings("docker.io"))
	apply(t, h, mixedSettings())
	applied := tree(t, h)
	if err := late.Commit(); err == nil || !strings.Contains(err.Error(), "another setup") {
		t.Errorf("got %v", err)
	}
	unlock, err := h.lock()
	if err != nil {
		t.Fatal(err)
	}
	late = plan(t, h, settings("docker.io"))
	if err := late.Commit(); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("got %v", err)
	}
	unlock()
	sameTree(t, "late apply", tree(t, h), applied)
}

// What others do to our part: undo takes out what is left of it, or says that it
// cannot tell, and goes on with the other files.
func TestOurPartEdited(t *testing.T) {
	const daemon, hosts, buildkit = "/etc/docker/daemon.json", "/etc/containerd/certs.d/quay.io/hosts.toml", "/etc/buildkit/buildkitd.toml"
	files := map[string]string{
		daemon:   "{\"debug\":true}",
		hosts:    "server = \"https://quay.io\"\n",
		buildkit: "[registry.\"docker.io\"]\n  mirrors = [\"near.corp\"]\n",
	}
	for _, c := range []struct {
		name, path, from, to, want string
		left                       bool
	}{
		{"reformatted JSON", daemon, "", "{\n  \"debug\": true,\n  \"registry-mirrors\": [\n    \"http://127.0.0.1:5050\"\n  ]\n}\n", "{\n  \"debug\": true\n}\n", false},
		{"reformatted JSON, in front", daemon, "", "{\n  \"registry-mirrors\": [\n    \"http://127.0.0.1:5050/\"\n  ],\n  \"debug\": true\n}\n", "{\n  \"debug\": true\n}\n", false},
		{"reformatted JSON, more mirrors", daemon, "", "{ \"registry-mirrors\": [ \"https://a\", \"http://127.0.0.1:5050\" ] }", "{ \"registry-mirrors\": [ \"https://a\" ] }", false},
		{"JSON with another mirror in front", daemon, "[\"http", "[\"https://a\",\"http", "{\"registry-mirrors\": [\"https://a\"],\"debug\":true}", false},
		{"removed from JSON", daemon, "", "{}", "{}", false},
		{"another value between our marks", hosts, "500ms", "2s", "server = \"https://quay.io\"\n", false},
		{"our marks removed", hosts, markEnd, "", "", true},
		{"our lines removed", hosts, "", "server = \"https://x\"\n", "server = \"https://x\"\n", false},
		{"moved in a list", buildkit, "\"127.0.0.1:5050\", \"near.corp\"", "\"near.corp\", \"127.0.0.1:5050\"", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, files)
			before := tree(t, h)
			apply(t, h, settings("docker.io", "quay.io"))
			text := c.to
			if c.from != "" {
				if text = strings.Replace(read(t, h, c.path), c.from, c.to, 1); text == read(t, h, c.path) {
					t.Fatalf("%q is not in\n%s", c.from, text)
				}
			}
			write(t, h, c.path, text)
			if c.left {
				c.want = text
			}
			p, err := h.PlanUndo()
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(); err != nil {
				t.Fatal(err)
			}
			if (len(p.Problems()) > 0) != c.left {
				t.Errorf("notes %v", p.Notes)
			}
			if got := read(t, h, c.path); got != c.want {
				t.Errorf("left\n%s\nwant\n%s", got, c.want)
			}
			write(t, h, c.path, files[c.path]) // by hand
			undo(t, h)
			sameTree(t, "undo", tree(t, h), before)
		})
	}
}

// Files of others in directories that were made keep these.
func TestDirectoryInUse(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/": ""})
	apply(t, h, settings("docker.io"))
	write(t, h, "/etc/containerd/certs.d/docker.io/ca.crt", "PEM\n")
	undo(t, h)
	if !h.root.exists("/etc/containerd/certs.d/docker.io/ca.crt") || h.root.exists("/etc/containerd/certs.d/docker.io/hosts.toml") || h.root.exists("/etc/docker") {
		t.Errorf("left %v", tree(t, h))
	}
}

func TestBadSettings(t *testing.T) {
	h := newHost(t, nil)
	type bad struct {
		want string
		make func(*Settings)
	}
	for _, c := range []bad{
		{`mirror "127.0.0.1:5050"`, func(s *Settings) { s.Mirror = "127.0.0.1:5050" }},
		{`mirror "http://127.0.0.1:5050/v2"`, func(s *Settings) { s.Mirror += "/v2" }},
		{"no registries", func(s *Settings) { s.Registries = nil }},
		{`registry "../../etc": want`, func(s *Settings) { s.Registries = []string{"../../etc"} }},
		{`registry "docker.io/library": want`, func(s *Settings) { s.Registries = []string{"docker.io/library"} }},
		{`runtime "rkt": want one of`, func(s *Settings) { s.Runtimes = []Runtime{"rkt"} }},
		{"file docker=daemon.json: want", func(s *Settings) { s.Files = map[Runtime]string{Docker: "daemon.json"} }},
		{"dial timeout -1ns: is negative", func(s *Settings) { s.DialTimeout = -1 }},
	} {
		s := settings("docker.io")
		c.make(&s)
		if _, err := h.Plan(t.Context(), s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// Files that cannot be read as what they should be are named.
func TestUnreadable(t *testing.T) {
	for path, c := range map[string]struct{ content, want string }{
		containerdConfig:                   {"version = ", "config.toml: line 1, column"},
		dockerConfig + "/":                 {"", "/etc/docker/daemon.json: is no file"},
		"/var/lib/samara/setup/state.json": {"{", "state.json: unexpected end of JSON input"},
	} {
		h := newHost(t, map[string]string{path: c.content})
		if _, err := h.Plan(t.Context(), settings("docker.io")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
