package registry

import (
	"slices"
	"strings"
	"testing"
)

func newTestResolver(t *testing.T, def string, names ...string) *Resolver {
	t.Helper()
	r, err := NewResolver(names, def)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// contract 20 and 21.
func TestResolve(t *testing.T) {
	for _, c := range []struct {
		name, path, ns string
		want, code     string
		named          bool
	}{
		{name: "containerd", path: "library/nginx", ns: "docker.io", want: "docker.io/library/nginx", named: true},
		{name: "regctl sends the alias", path: "library/nginx", ns: "registry-1.docker.io", want: "docker.io/library/nginx", named: true},
		{name: "nydus sends the other alias", path: "library/nginx", ns: "index.docker.io", want: "docker.io/library/nginx", named: true},
		{name: "case and port of ns", path: "org/app", ns: "GHCR.io:443", want: "ghcr.io/org/app", named: true},
		{name: "official image without library", path: "nginx", ns: "docker.io", want: "docker.io/library/nginx", named: true},
		{name: "no library elsewhere", path: "pause", ns: "registry.lab.test:5000", want: "registry.lab.test:5000/pause", named: true},
		{name: "docker sends no ns", path: "library/nginx", want: "docker.io/library/nginx"},
		{name: "docker, official image", path: "nginx", want: "docker.io/library/nginx"},
		{name: "podman puts the host into the path", path: "ghcr.io/org/app", want: "ghcr.io/org/app", named: true},
		{name: "path with port", path: "registry.lab.test:5000/app", want: "registry.lab.test:5000/app", named: true},
		{name: "path with docker.io", path: "docker.io/nginx", want: "docker.io/library/nginx", named: true},
		{name: "buildkit sends both", path: "docker.io/library/nginx", ns: "docker.io", want: "docker.io/library/nginx", named: true},
		{name: "buildkit with an alias", path: "index.docker.io/library/nginx", ns: "docker.io", want: "docker.io/library/nginx", named: true},
		{name: "ns wins over another host in the path", path: "quay.io/org/app", ns: "ghcr.io", want: "ghcr.io/quay.io/org/app", named: true},
		{name: "a bare word is never an upstream", path: "lab/app", want: "docker.io/lab/app"},
		{name: "a bare word as ns is", path: "app", ns: "lab", want: "lab/app", named: true},
		{name: "ns is no address (contract 21)", path: "a", ns: "169.254.169.254", code: CodeNameUnknown},
		{name: "ns with a path (contract 21)", path: "a", ns: "docker.io/../x", code: CodeNameUnknown},
		{name: "ns with another port", path: "a", ns: "docker.io:8443", code: CodeNameUnknown},
		{name: "host in the path that is not configured", path: "evil.test/a", code: CodeNameUnknown},
		{name: "localhost in the path", path: "localhost/a", code: CodeNameUnknown},
		{name: "bad repository", path: "Nginx", ns: "docker.io", code: CodeNameInvalid},
		{name: "dots", path: "../a", ns: "docker.io", code: CodeNameInvalid},
		{name: "nothing after the host", path: "ghcr.io/", code: CodeNameInvalid},
		{name: "empty", path: "", code: CodeNameInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTestResolver(t, "docker.io", "docker.io", "ghcr.io", "quay.io", "registry.lab.test:5000", "lab")
			n, named, err := r.resolve(c.path, c.ns)
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil || n.String() != c.want || named != c.named {
				t.Fatalf("got %q, named %v, %v; want %q, named %v", n, named, err, c.want, c.named)
			}
		})
	}
}

func TestResolveWithoutDefault(t *testing.T) {
	r := newTestResolver(t, "", "ghcr.io")
	_, err := r.Resolve("org/app", "")
	wantCode(t, err, CodeNameUnknown)
	if !strings.Contains(err.Error(), "ghcr.io") {
		t.Errorf("%v does not say which upstreams there are", err)
	}
	if n, err := r.Resolve("org/app", "ghcr.io"); err != nil || n.String() != "ghcr.io/org/app" {
		t.Errorf("got %q, %v", n, err)
	}
}

func TestNewResolver(t *testing.T) {
	r := newTestResolver(t, "registry-1.docker.io", "quay.io", "Index.Docker.io")
	if got := r.Names(); !slices.Equal(got, []string{"docker.io", "quay.io"}) || r.Default() != "docker.io" {
		t.Errorf("names %q, default %q", got, r.Default())
	}
	for name, c := range map[string]struct {
		def   string
		names []string
	}{
		"twice by alias":       {"", []string{"docker.io", "index.docker.io"}},
		"bad name":             {"", []string{"a b"}},
		"default not among":    {"ghcr.io", []string{"docker.io"}},
		"default without any":  {"ghcr.io", nil},
		"empty name":           {"", []string{""}},
		"a URL is not a name":  {"", []string{"https://docker.io"}},
		"a path is not a name": {"", []string{"docker.io/library"}},
	} {
		if _, err := NewResolver(c.names, c.def); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
