package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

func TestNewRefuses(t *testing.T) {
	tests := []struct{ name, url, says string }{
		{"", "https://a", "a name has"},
		{"a/b", "https://a", "a name has"},
		{"-a", "https://a", "a name has"},
		{"a", "10.0.0.1:5000", "must begin with https:// or http://"},
		{"a", "registry.example", "must begin with https:// or http://"},
		{"a", "ftp://a", "must begin with https:// or http://"},
		{"a", "https://", "has no host"},
		{"a", "https://:5000", "has no host"},
		{"a", "https://a/mirror", "without a path"},
		{"a", "https://a?x=1", "without a path"},
		{"a", "https://us3r:pa55@a", "docker's config.json"},
		{"a", "https://us3r:pa55@a b", "cannot be read"},
		{"a", "https://[::1", "cannot be read"},
	}
	for _, test := range tests {
		_, err := New([]Registry{{Name: test.name, URL: test.url}}, Options{})
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q=%q: %v, want %q", test.name, test.url, err, test.says)
		} else if strings.Contains(err.Error(), "pa55") {
			t.Errorf("secret in an error: %v", err)
		}
	}
	if _, err := New([]Registry{{Name: "a", URL: "https://a"}, {Name: "a", URL: "https://b"}}, Options{}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("%v", err)
	}
}

func TestNamesAndURLs(t *testing.T) {
	c, err := New([]Registry{{Name: "up", URL: "http://10.0.0.1:5000/"}, {Name: "docker.io", URL: "https://registry-1.docker.io"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := fmt.Sprint(c.Names()); got != "[docker.io up]" {
		t.Error(got)
	}
	if u, ok := c.URL("up"); !ok || u != "http://10.0.0.1:5000" {
		t.Error(u, ok)
	}
	if u, ok := c.URL("down"); ok {
		t.Error(u)
	}
	old := c.byName["up"]
	if err := c.Update([]Registry{{Name: "up", URL: "http://10.0.0.1:5000"}, {Name: "new", URL: "https://new.example"}}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Names()); got != "[new up]" || c.byName["up"] != old {
		t.Error("Update lost an upstream's state:", got)
	}
	if err := c.Update([]Registry{{Name: "x", URL: "y"}}); err == nil || len(c.Names()) != 2 {
		t.Error("a refused Update changed something")
	}
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	virtually(t, func(o *Options) { o.Registerer, o.Namespace = r, "seeder" }, func(t *testing.T, b *bench) {
		d, _ := b.up.AddRandomBlob(1000)
		b.up.SetFault("blobs", upstreamtest.Fault{Cut: 0.5, Times: 1})
		if _, err := readAll(t, b, d, 0, -1); err != nil {
			t.Fatal(err)
		}
		_, _ = b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
	})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			line := f.GetName()
			for _, l := range m.GetLabel() {
				line += " " + l.GetName() + "=" + l.GetValue()
			}
			got = append(got, fmt.Sprintf("%s %g", line, m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	want := []string{
		"seeder_upstream_breaker_open host=blackhole.test upstream=hole 0",
		"seeder_upstream_breaker_open host=nobody.test upstream=nobody 0",
		"seeder_upstream_breaker_open host=up.test upstream=up 0",
		"seeder_upstream_bytes_total upstream=up 1000",
		"seeder_upstream_in_flight upstream=up 0",
		"seeder_upstream_requests_total op=blob result=ok upstream=up 2",
		"seeder_upstream_requests_total op=manifest result=not-found upstream=up 1",
		"seeder_upstream_resumes_total upstream=up 1",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := New(nil, Options{Registerer: r, Namespace: "seeder"}); err == nil {
		t.Error("two clients may not share names")
	}
}

func TestStatsNameTheLastError(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.SetFault("manifests", fault{Status: 403})
		_, _ = b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		b.up.ClearFaults()
		_, _ = b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		s := b.client.Stats()[2]
		if !strings.Contains(s.LastError, "403 Forbidden") || s.LastErrorAt != time.Now() || s.Errors[Denied] != 1 || s.Errors[NotFound] != 1 || s.Requests != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// Credentials come from docker's own files and helper programs.
func TestDockerConfig(t *testing.T) {
	up := upstreamtest.New()
	defer up.Close()
	img := up.AddImage("a/b", "1", 1000)
	up.SetAuth(&upstreamtest.Auth{Bearer: true, Username: "us3r", Password: "pa55"})
	host := strings.TrimPrefix(up.URL(), "http://")
	tests := []struct{ name, config string }{
		{"auths", fmt.Sprintf(`{"auths":{%q:{"auth":"dXMzcjpwYTU1"}}}`, host)},
		{"credHelpers", fmt.Sprintf(`{"credHelpers":{%q:"samara-test"}}`, host)},
		{"credsStore", `{"credsStore":"samara-test"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("HOME", dir)
			t.Setenv("DOCKER_CONFIG", dir)
			t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
			helper := "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"us3r\",\"Secret\":\"pa55\"}'\n"
			write(t, filepath.Join(dir, "docker-credential-samara-test"), helper, 0o700)
			write(t, filepath.Join(dir, "config.json"), test.config, 0o600)
			c, err := New([]Registry{{Name: "up", URL: up.URL()}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			m, err := c.Manifest(t.Context(), "up", "a/b", "1", nil)
			if err != nil || m.Digest != img.Digest {
				t.Error(err)
			}
		})
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestKind(t *testing.T) {
	for k, want := range map[Kind]string{None: "ok", NotFound: "not-found", Invalid: "invalid", 99: "unknown"} {
		if got, err := json.Marshal(map[Kind]int{k: 1}); err != nil || string(got) != `{"`+want+`":1}` {
			t.Errorf("%d: %s, %v", k, got, err)
		}
	}
	for _, test := range []struct {
		err  error
		want Kind
	}{
		{nil, None},
		{context.Canceled, Canceled},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), Canceled},
		{errors.New("x"), Unavailable},
		{fmt.Errorf("x: %w", &Error{Kind: Denied}), Denied},
	} {
		if got := KindOf(test.err); got != test.want {
			t.Errorf("%v: %s", test.err, got)
		}
	}
}

// Only so many repositories' headers are kept.
func TestSessionsAreBounded(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		u := b.client.byName["up"].own()
		for i := range maxSessions + 10 {
			if _, f := u.authorization(t.Context(), account{repo: fmt.Sprint("r", i)}); f != nil {
				t.Fatal(f)
			}
		}
		if n := len(u.sessions); n > maxSessions {
			t.Errorf("%d sessions", n)
		}
	})
}
