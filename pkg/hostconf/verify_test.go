package hostconf

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeContainerd is a containerd of a release, which dumps nothing.
func fakeContainerd(release string) func(context.Context, string, ...string) ([]byte, error) {
	return func(_ context.Context, name string, args ...string) ([]byte, error) {
		if name == "containerd" && strings.Join(args, " ") == "--version" {
			return []byte("containerd github.com/containerd/containerd " + release + " 0123456789abcdef\n"), nil
		}
		return nil, errors.New("not here")
	}
}

// mirrorServer answers as peerd does, or as handler does.
func mirrorServer(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	if handler == nil {
		handler = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
			}
		}
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

// problems are the codes of a report's problems, sorted.
func problems(t *testing.T, h *Host, s Settings) []string {
	t.Helper()
	r, err := h.Verify(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, n := range r.Notes {
		if n.Text == "" || n.Problem && n.Remedy == "" {
			t.Errorf("%+v says not enough", n)
		}
		if n.Problem && !slices.Contains(codes, n.Code) {
			codes = append(codes, n.Code)
		}
	}
	slices.Sort(codes)
	return codes
}

// contract 23. Each fault, made on a host that is proven to be right, is found and named.
func TestVerifyFaults(t *testing.T) {
	const hub, podmanFile = "/etc/containerd/certs.d/docker.io/hosts.toml", "/etc/containers/registries.conf.d/50-samara.conf"
	replace := func(path, from, to string) func(*testing.T, *Host, *Settings) {
		return func(t *testing.T, h *Host, _ *Settings) {
			text := read(t, h, path)
			if !strings.Contains(text, from) {
				t.Fatalf("%q is not in\n%s", from, text)
			}
			write(t, h, path, strings.Replace(text, from, to, 1))
		}
	}
	put := func(path, text string) func(*testing.T, *Host, *Settings) {
		return func(t *testing.T, h *Host, _ *Settings) { write(t, h, path, text) }
	}
	serve := func(handler http.HandlerFunc) func(*testing.T, *Host, *Settings) {
		return func(t *testing.T, h *Host, s *Settings) {
			undo(t, h)
			s.Mirror = mirrorServer(t, handler)
			apply(t, h, *s)
		}
	}
	for _, c := range []struct {
		name string
		make func(*testing.T, *Host, *Settings)
		want []string
	}{
		{"none", func(*testing.T, *Host, *Settings) {}, nil},
		{"undone", func(t *testing.T, h *Host, _ *Settings) { undo(t, h) }, []string{codeConfigMissing, codeNotConfigured}},
		{"hosts.toml removed", func(t *testing.T, h *Host, _ *Settings) {
			if err := os.Remove(h.root.at(hub)); err != nil {
				t.Fatal(err)
			}
		}, []string{codeNotConfigured}},
		{"hosts.toml broken", put(hub, "[host"), []string{codeUnreadable}},
		{"another host in front", func(t *testing.T, h *Host, _ *Settings) {
			write(t, h, hub, "[host.\"https://m.corp\"]\n"+read(t, h, hub))
		}, []string{codeNotFirst}},
		{"pull taken away", replace(hub, `["pull", "resolve"]`, `["resolve"]`), []string{codeLacksPull}},
		{"a directory by an older name hides ours", put("/etc/containerd/certs.d/registry.corp_5000_/hosts.toml", "server = \"https://registry.corp:5000\"\n"), []string{codeNotConfigured}},
		{"config_path elsewhere", replace(containerdConfig, "/etc/containerd/certs.d", "/srv/certs.d"), []string{codeNotConfigured}},
		{"config_path twice", replace(containerdConfig, `"/etc/containerd/certs.d"`, `"/etc/containerd/certs.d:/etc/docker/certs.d"`), []string{codeConfigTwo}},
		{"an import replaces the section", func(t *testing.T, h *Host, _ *Settings) {
			write(t, h, containerdConfig, "version = 2\nimports = [\"more.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n")
			write(t, h, "/etc/containerd/more.toml", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause\"\n")
		}, []string{codeConfigShadowed}},
		{"config_path and mirrors", func(t *testing.T, h *Host, _ *Settings) {
			write(t, h, containerdConfig, read(t, h, containerdConfig)+"[plugins.\"io.containerd.cri.v1.images\".registry.mirrors.\"docker.io\"]\n  endpoint = [\"https://m.corp\"]\n")
		}, []string{codeConfigConflict}},
		{"config.toml broken", put(containerdConfig, "version ="), []string{codeUnreadable}},
		{"containerd not restarted", func(_ *testing.T, h *Host, _ *Settings) {
			h.started = func(program string) time.Time {
				if program == "containerd" {
					return time.Now().Add(-time.Hour)
				}
				return time.Time{}
			}
		}, []string{codeRestart}},
		{"buildkitd not restarted", func(_ *testing.T, h *Host, _ *Settings) {
			h.started = func(program string) time.Time {
				if program == "buildkitd" {
					return time.Now().Add(-time.Hour)
				}
				return time.Time{}
			}
		}, []string{codeRestart}},
		{"what containerd itself says", func(_ *testing.T, h *Host, _ *Settings) {
			h.run = func(_ context.Context, _ string, args ...string) ([]byte, error) {
				if slices.Contains(args, "dump") {
					return []byte("version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = ''\n"), nil
				}
				return []byte("containerd x v2.0.5 y\n"), nil
			}
		}, []string{codeConfigMissing}},
		{"daemon.json without mirrors", put(dockerConfig, "{}"), []string{codeNotConfigured}},
		{"daemon.json broken", put(dockerConfig, "{"), []string{codeUnreadable}},
		{"daemon.json and flags", put("/etc/default/docker", "DOCKER_OPTS=\"--registry-mirror=https://m.corp\"\n"), []string{codeDockerFlag}},
		{"another mirror of docker's in front", replace(dockerConfig, "[", `["https://m.corp", `), []string{codeNotFirst}},
		{"dockerd not reloaded", dockerd(), []string{codeReload}},
		{"dockerd asks another first", dockerd("https://m.corp/", testMirrorSlash), []string{codeNotFirst}},
		{"dockerd is right", dockerd(testMirrorSlash), nil},
		{"a later file of podman's", put("/etc/containers/registries.conf.d/99-corp.conf", "[[registry]]\nlocation = \"docker.io\"\n"), []string{codeNotConfigured}},
		{"podman's files broken", put(podmanFile, "[["), []string{codeUnreadable}},
		{"buildkitd.toml without mirrors", put(buildkitConfig, ""), []string{codeNotConfigured}},
		{"buildkitd.toml broken", put(buildkitConfig, "= 1"), []string{codeUnreadable}},
		{"mirror down", func(t *testing.T, h *Host, s *Settings) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			undo(t, h)
			s.Mirror = "http://" + l.Addr().String()
			l.Close()
			apply(t, h, *s)
		}, []string{codeMirrorDown}},
		{"another server has the port", serve(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }), []string{codeMirrorOther}},
		{"the server there redirects", serve(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }), []string{codeMirrorOther}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, map[string]string{containerdConfig: "version = 3\n"})
			s := settings("docker.io", "registry.corp:5000", DefaultRegistry)
			s.Mirror, s.WriteConfigPath = mirrorServer(t, nil), true
			apply(t, h, s)
			c.make(t, h, &s)
			if got := problems(t, h, s); !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

// testMirrorSlash stands for the mirror, as dockerd shows it.
const testMirrorSlash = "MIRROR/"

// dockerd runs one that says what it knows.
func dockerd(mirrors ...string) func(*testing.T, *Host, *Settings) {
	return func(t *testing.T, h *Host, s *Settings) {
		h.run = fakeContainerd("2.2.0")
		known := []string{}
		for _, m := range mirrors {
			known = append(known, strings.Replace(m, "MIRROR", s.Mirror, 1))
		}
		if err := os.MkdirAll(h.root.at("/var/run"), 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", h.root.at(dockerSocket))
		if err != nil {
			t.Skip(err) // the path is too long for a socket
		}
		srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/info" {
				http.NotFound(w, r)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"RegistryConfig": map[string]any{"Mirrors": known}})
		})}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }()
		t.Cleanup(func() { srv.Close(); <-done })
	}
}

// A capability or a timeout that is not there is worth a word, and no fault.
func TestVerifyNotes(t *testing.T) {
	h := newHost(t, map[string]string{
		containerdConfig: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
	})
	s := settings("docker.io")
	s.Mirror, s.Runtimes = mirrorServer(t, nil), []Runtime{Containerd}
	write(t, h, "/etc/containerd/certs.d/docker.io/hosts.toml", "[host.\""+s.Mirror+"/\"]\ncapabilities = [\"Pull\"]\n")
	r, err := h.Verify(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Proofs) != 1 || len(r.Notes) != 2 || r.Notes[0].Code != codeLacksResolve || r.Notes[1].Code != codeNoDialTimeout || r.Notes[0].Problem || r.Notes[1].Problem {
		t.Errorf("report %+v", r)
	}
}
