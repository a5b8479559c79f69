package upstream

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// program puts a shell script named docker-credential-test before the others
// of the PATH. It counts its calls in the file that is returned.
func program(t *testing.T, body string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	script := fmt.Sprintf("#!/bin/sh\nread server\necho \"$1 $server\" >> %s\n%s\n", calls, body)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// clock is a wall clock for tests that run programs, which virtual time cannot.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// guarded is an upstream that wants u:secret, and a client for it.
func guarded(t *testing.T, r Registry, c *clock) (*upstreamtest.Server, *Client, *observer.ObservedLogs) {
	t.Helper()
	up := upstreamtest.New()
	t.Cleanup(up.Close)
	up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "secret"})
	for i := range 20 {
		up.AddImage(fmt.Sprintf("a/%d", i), "v1", 10)
	}
	core, logs := observer.New(zap.DebugLevel)
	r.Name, r.URL = "up", up.URL()
	client, err := New([]Registry{r}, Options{Log: zap.New(core), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return up, client, logs
}

// A helper is asked once for all, ahead of the end, and again when what it said
// is refused.
func TestHelper(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	say := func(s string) {
		if err := os.WriteFile(secret, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	say("secret")
	calls := program(t, fmt.Sprintf(`echo "{\"ServerURL\":\"$server\",\"Username\":\"u\",\"Secret\":\"$(cat %s)\"}"`, secret))
	var c clock
	up, client, logs := guarded(t, Registry{Helper: "test"}, &c)
	var wg sync.WaitGroup
	pull := func(i int) error {
		_, err := client.Manifest(t.Context(), "up", fmt.Sprintf("a/%d", i), "v1", nil)
		return err
	}
	for i := range 10 {
		wg.Go(func() {
			if err := pull(i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := lines(t, calls); len(got) != 1 || got[0] != "get "+strings.TrimPrefix(up.URL(), "http://") {
		t.Fatalf("asked %q", got)
	}
	c.advance(helperRefresh + time.Second)
	if err := pull(10); err != nil {
		t.Error(err)
	}
	client.background.Wait() // nobody waited for it
	if got := lines(t, calls); len(got) != 2 {
		t.Errorf("asked %d times once it is time to refresh", len(got))
	}
	say("new")
	up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "new"})
	if err := pull(11); KindOf(err) != Denied {
		t.Errorf("just asked, it is not asked again: %v", err)
	}
	c.advance(helperAtMost + time.Second)
	if err := pull(12); err != nil {
		t.Errorf("a new secret: %v", err)
	}
	for _, e := range logs.All() {
		if s := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(s, "secret") || strings.Contains(s, "Secret") {
			t.Errorf("logged: %s", s)
		}
	}
}

// Helpers that fail, say nothing, or too much. No word of theirs gets out.
func TestHelperFails(t *testing.T) {
	for _, test := range []struct{ name, script, says string }{
		{"knows nothing", `echo "credentials not found in native keychain"; exit 1`, "no credentials are known for it"},
		{"fails", `echo "my password is secret"; echo secret >&2; exit 3`, "docker-credential-test ended with exit status 3; run `echo "},
		{"prints nonsense", `echo secret`, "did not print a JSON object"},
		{"prints too much", `head -c 100000 /dev/zero`, "prints more than 64 KiB"},
		{"wrong password", `echo '{"Username":"u","Secret":"wrong"}'`, "do not open this repository"},
	} {
		t.Run(test.name, func(t *testing.T) {
			program(t, test.script)
			_, client, logs := guarded(t, Registry{Helper: "test"}, &clock{})
			_, err := client.Manifest(t.Context(), "up", "a/1", "v1", nil)
			wantKind(t, err, Denied, test.says)
			for _, e := range logs.All() {
				err = fmt.Errorf("%w %s %v", err, e.Message, e.ContextMap())
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("a secret got out: %v", err)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		calls := program(t, "exec sleep 100")
		began := time.Now()
		_, client, _ := guarded(t, Registry{Helper: "test"}, &clock{})
		done := make(chan error, 1)
		go func() {
			_, err := client.Manifest(t.Context(), "up", "a/1", "v1", nil)
			done <- err
		}()
		for deadline := began.Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
			if b, _ := os.ReadFile(calls); len(b) > 0 {
				break
			}
		}
		client.Close() // ends the program
		if err := <-done; err == nil {
			t.Error("no error")
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("is not there", func(t *testing.T) {
		_, client, _ := guarded(t, Registry{Helper: "no-such-program"}, &clock{})
		_, err := client.Manifest(t.Context(), "up", "a/1", "v1", nil)
		wantKind(t, err, Denied, "docker-credential-no-such-program cannot be run")
	})
}

// A file with credentials is read again when they are refused.
func TestCredentialsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("u:secret\nmore\n")
	up, client, _ := guarded(t, Registry{File: file}, &clock{})
	pull := func() error {
		_, err := client.Manifest(t.Context(), "up", "a/1", "v1", nil)
		return err
	}
	if err := pull(); err != nil {
		t.Fatal(err)
	}
	up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "with:colon"})
	wantKind(t, pull(), Denied)
	write("u:with:colon")
	if err := pull(); err != nil {
		t.Errorf("changed: %v", err)
	}
	write("nothing")
	up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "x"})
	wantKind(t, pull(), Denied, "the first line of "+file+" is not USER:PASSWORD")
}

// Helpers of docker's config.json are run as ours are, not by
// go-containerregistry, which would wait for them for ever.
func TestConfiguredHelper(t *testing.T) {
	for _, test := range []struct{ name, config, host, want string }{
		{"none", `{"auths":{"a.test":{}}}`, "a.test", ""},
		{"for the host", `{"credHelpers":{"a.test":"x"},"credsStore":"y"}`, "a.test", "docker-credential-x"},
		{"for all", `{"credHelpers":{"b.test":"x"},"credsStore":"y"}`, "a.test", "docker-credential-y"},
		{"Docker Hub", `{"credHelpers":{"https://index.docker.io/v1/":"hub"}}`, "index.docker.io", "docker-credential-hub"},
		{"Docker Hub by its short name", `{"credHelpers":{"docker.io":"hub"}}`, "index.docker.io", "docker-credential-hub"},
		{"broken", `{`, "a.test", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := configuredHelper(test.host); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	t.Run("is run", func(t *testing.T) {
		calls := program(t, `echo '{"Username":"u","Secret":"secret"}'`)
		dir := t.TempDir()
		t.Setenv("DOCKER_CONFIG", dir)
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credsStore":"test"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		_, client, _ := guarded(t, Registry{}, &clock{})
		if _, err := client.Manifest(t.Context(), "up", "a/1", "v1", nil); err != nil || len(lines(t, calls)) != 1 {
			t.Errorf("%v", err)
		}
	})
}
