package cli

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// An image of a host is made a peer: with the right key only, once, and without
// harm to what is there.
func TestJoin(t *testing.T) {
	dir := t.TempDir()
	psk, err := p2p.CreateSwarmKey(filepath.Join(dir, "swarm.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p2p.CreateSwarmKey(filepath.Join(dir, "other.key")); err != nil {
		t.Fatal(err)
	}
	identity, err := p2p.LoadOrCreateKey(filepath.Join(dir, "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(identity)
	if err != nil {
		t.Fatal(err)
	}
	in := daemon.Introduction{PeerID: id.String(), SwarmKey: p2p.Fingerprint(psk), Upstreams: []daemon.IntroduceUpstream{{Name: "docker.io"}}}
	seeder := httptest.NewServer(daemon.IntroductionHandler(func(string) daemon.Introduction { return in }))
	defer seeder.Close()
	nobody := httptest.NewServer(http.NotFoundHandler())
	defer nobody.Close()

	root := setupHost(t)
	settings := filepath.Join(root, unitConfig)
	if err := os.MkdirAll(filepath.Dir(settings), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, []byte("# ours\nquota: 5GiB"), 0o644); err != nil {
		t.Fatal(err)
	}
	join := func(url, key string) (int, string, string) {
		cmd := Peerd(noServe)
		in, err := os.ReadFile(filepath.Join(dir, key))
		if err != nil && key != "none" {
			t.Fatal(err)
		}
		cmd.SetIn(bytes.NewReader(in))
		return execute(t.Context(), cmd, "join", url, "--root", root)
	}
	for _, c := range []struct {
		name, url, key, errs string
	}{
		{"no key", seeder.URL, "none", "no swarm key on standard input, but 0 bytes that are not in swarm.key format"},
		{"another's key", seeder.URL, "other.key", "the key is not that seeder's: its fingerprint is "},
		{"no seeder", nobody.URL, "swarm.key", "is --seeder the URL of a seeder's registry API?"},
	} {
		if code, out, errs := join(c.url, c.key); code != 1 || !strings.Contains(errs, c.errs) {
			t.Errorf("%s: exit status %d, %s%s", c.name, code, out, errs)
		}
		if _, err := os.Stat(filepath.Join(root, unitSwarmKey)); err == nil {
			t.Fatalf("%s: a key was written", c.name)
		}
	}
	for _, again := range []bool{false, true} {
		code, out, errs := join(seeder.URL, "swarm.key")
		if code != 0 || errs != "" || !again && (!strings.Contains(out, "changed /etc/docker/daemon.json\n") || !strings.Contains(out, "containerd is left as it is")) {
			t.Errorf("again=%v: exit status %d, %s%s", again, code, out, errs)
		}
		if text, err := os.ReadFile(settings); err != nil || string(text) != "# ours\nquota: 5GiB\nseeder: [\""+seeder.URL+"\"]\n" {
			t.Errorf("again=%v: %s is %q, %v", again, settings, text, err)
		}
		got, err := p2p.LoadSwarmKey(filepath.Join(root, unitSwarmKey))
		if err != nil || p2p.Fingerprint(got) != in.SwarmKey {
			t.Errorf("again=%v: the key: %v", again, err)
		}
	}
	if code, _, errs := join(nobody.URL, "swarm.key"); code != 1 || !strings.Contains(errs, "this host has another seeder, "+seeder.URL) {
		t.Errorf("another seeder: exit status %d, %s", code, errs)
	}

	// Where there is a kubelet, containerd matters, too.
	if err := os.MkdirAll(filepath.Join(root, "var/lib/kubelet"), 0o755); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := join(seeder.URL, "swarm.key"); code != 0 || !strings.Contains(out, "made /etc/containerd/certs.d/docker.io/hosts.toml\n") {
		t.Errorf("with a kubelet: exit status %d, %s%s", code, out, errs)
	}
}
