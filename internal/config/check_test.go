package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const testPeer = "12D3KooWGBfKT9Wy3LSNxkfxqbzmzNjTuxg8F8g4ZTkm6EHaQFHG"

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	key, file := filepath.Join(dir, "swarm.key"), filepath.Join(dir, "file")
	for _, f := range []string{key, file} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base := []string{"--data", filepath.Join(dir, "a", "b"), "--swarm-key", key}
	for _, c := range []struct {
		name string
		args []string
		want string // "" is fine
	}{
		{name: "least", args: nil},
		{name: "much", args: []string{"--listen", "[::1]:5050", "--p2p-listen", "/ip6/::/tcp/4001", "--p2p-listen", "/ip4/0.0.0.0/tcp/4003", "--zone", "eu-1.rack_7", "--seeder", "https://seeder.example:5443",
			"--seeder-id", testPeer, "--bootstrap", "/dns4/seeder/tcp/4001/p2p/" + testPeer, "--bootstrap-dns", "peerd.samara.svc:4002", "--upstream", "lab=http://10.0.0.1:5000", "--default-upstream", "lab", "--docker-config", dir, "--advertise", "10.0.0.7", "--advertise", "fe80::1", "--advertise", "node-7.example"}},
		{name: "ports 0", args: []string{"--listen", "127.0.0.1:0", "--pieces-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--p2p-listen", "/ip4/127.0.0.1/tcp/0"}},
		{name: "same port on two addresses", args: []string{"--listen", "127.0.0.1:5050", "--pieces-listen", "127.0.0.2:5050"}},
		{name: "no port", args: []string{"--listen", "127.0.0.1"}, want: `--listen: "127.0.0.1": missing port in address; give HOST:PORT`},
		{name: "big port", args: []string{"--admin-listen", ":65536"}, want: `--admin-listen: ":65536": port "65536" is not within 0 to 65535`},
		{name: "odd host", args: []string{"--pieces-listen", "a b:1"}, want: `neither a host name nor an IP`},
		{name: "one port twice", args: []string{"--pieces-listen", ":5050"}, want: `--pieces-listen: port 5050 is also that of --listen; give each its own port`},
		{name: "p2p on the pieces port", args: []string{"--p2p-listen", "/ip4/10.0.0.1/tcp/4002"}, want: `--p2p-listen: port 4002 is also that of --pieces-listen`},
		{name: "multiaddr", args: []string{"--p2p-listen", ":4001"}, want: `--p2p-listen: ":4001"`},
		{name: "quic", args: []string{"--p2p-listen", "/ip4/0.0.0.0/udp/4001/quic-v1"}, want: `wants an IP and a TCP port`},
		{name: "advertise with port", args: []string{"--advertise", "10.0.0.1:4001"}, want: `--advertise: "10.0.0.1:4001"; give a host name or an IP without a port`},
		{name: "zone", args: []string{"--zone", "rack 7"}, want: `--zone: "rack 7" is not a zone; use letters`},
		{name: "both swarm choices", args: []string{"--open-swarm"}, want: `--open-swarm: an open swarm has no key, and --swarm-key is given (--swarm-key); remove one of the two`},
		{name: "no swarm choice", args: []string{"--swarm-key", ""}, want: `--swarm-key: not given, and neither is --open-swarm; copy swarm.key from the seeder's data directory`},
		{name: "key that is not there", args: []string{"--swarm-key", "/nowhere/k"}, want: `--swarm-key: /nowhere/k: no such file or directory; copy the seeder's DATA/swarm.key there`},
		{name: "bootstrap without peer", args: []string{"--bootstrap", "/ip4/10.0.0.1/tcp/4001"}, want: `--bootstrap: "/ip4/10.0.0.1/tcp/4001": `},
		{name: "bootstrap dns", args: []string{"--bootstrap-dns", "peerd"}, want: `--bootstrap-dns: "peerd" is not NAME:PORT`},
		{name: "seeder without scheme", args: []string{"--seeder", "10.0.0.1:5000"}, want: `--seeder: "10.0.0.1:5000" is not a URL`},
		{name: "seeder with another scheme", args: []string{"--seeder", "ftp://x"}, want: `does not begin with http:// or https://`},
		{name: "seeder with path", args: []string{"--seeder", "http://x/v2/"}, want: `has more than a host and a port`},
		{name: "seeder with credentials", args: []string{"--seeder", "http://bob:hunter2@x"}, want: `"http://REDACTED@x" has credentials in it`},
		{name: "seeder's port", args: []string{"--seeder", "http://x:70000"}, want: `port 70000 is not within`},
		{name: "seeder's authority", args: []string{"--seeder-ca", "/none"}, want: "--seeder-ca: /none: no such file"},
		{name: "seeder id", args: []string{"--seeder-id", "x"}, want: "--seeder-id: \"x\": "},
		{name: "one pin for two", args: []string{"--seeder", "http://a", "--seeder", "http://b", "--seeder-id", testPeer}, want: `pins one seeder, and several are given`},
		{name: "upstream's name", args: []string{"--upstream", "a!b=http://x"}, want: `--upstream: "a!b" is not an upstream's name`},
		{name: "upstream twice", args: []string{"--upstream", "docker.io=http://x", "--upstream", "registry-1.docker.io=http://y"}, want: `"docker.io" is given twice`},
		{name: "upstream's url", args: []string{"--upstream", "a.b="}, want: `--upstream: a.b: "" does not begin`},
		{name: "default that is none", args: []string{"--upstream", "a.b=http://x", "--default-upstream", "docker.io"}, want: `--default-upstream: "docker.io" is not an upstream; name one of a.b`},
		{name: "concurrency", args: []string{"--max-concurrent", "0"}, want: `--max-concurrent: 0 requests at a time fetch nothing; give 1 or more`},
		{name: "ttl", args: []string{"--tag-ttl", "-1s"}, want: `--tag-ttl: -1s is negative`},
		{name: "stale", args: []string{"--stale-if-error", "-1s"}, want: `--stale-if-error: -1s is negative`},
		{name: "grace", args: []string{"--shutdown-grace", "-1s"}, want: `--shutdown-grace: -1s is negative`},
		{name: "level", args: []string{"--log-level", "loud"}, want: `--log-level: "loud" is not a level; give debug, info, warn or error`},
		{name: "format", args: []string{"--log-format", "xml"}, want: `--log-format: "xml" is not a format`},
		{name: "data is a file", args: []string{"--data", file}, want: `--data: ` + file + ` is not a directory`},
		{name: "data below a file", args: []string{"--data", filepath.Join(file, "x")}, want: `--data: ` + file},
		{name: "no data", args: []string{"--data", ""}, want: `--data: is empty; give a directory`},
		{name: "docker config", args: []string{"--docker-config", file}, want: file + ` is not a directory`},
		{name: "docker config missing", args: []string{"--docker-config", "/nowhere"}, want: `--docker-config: /nowhere: no such file`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, l, err := load(t, append(append([]string{}, base...), c.args...), nil, "")
			if err != nil {
				t.Fatal(err)
			}
			err = l.Check()
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var ce *Error
			if !errors.As(err, &ce) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("got: %v\nwant: %s", err, c.want)
			}
			if len(ce.Problems) != 1 {
				t.Errorf("%d problems: %v", len(ce.Problems), err)
			}
		})
	}
}

// A problem is told where the value was given.
func TestCheckNamesSource(t *testing.T) {
	_, l, err := load(t, []string{"--open-swarm", "--data", t.TempDir()}, map[string]string{"PEERD_ZONE": "a b"}, "# x\nlisten: nonsense\n")
	if err != nil {
		t.Fatal(err)
	}
	text := l.Check().Error()
	for _, w := range []string{"PEERD_ZONE: \"a b\"", "peerd.yaml:2: listen: \"nonsense\""} {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in %s", w, text)
		}
	}
}

func TestUnreadableDirectories(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.Mkdir(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if got := checkDir(dir); !strings.Contains(got, "cannot be read and written") {
		t.Errorf("got %q", got)
	}
	if got := checkDir(filepath.Join(dir, "y")); !strings.Contains(got, "cannot be made in") {
		t.Errorf("got %q", got)
	}
}

func TestSeederNeedsNoKey(t *testing.T) {
	_, l := NewSeeder()
	l.common.Data = t.TempDir()
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if w := l.Warnings(); len(w) != 0 {
		t.Error(w)
	}
}

func TestWarnings(t *testing.T) {
	_, l, err := load(t, []string{"--listen", ":5050", "--admin-listen", "0.0.0.0:9095", "--open-swarm", "--trusted-network"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	var where []string
	for _, p := range l.Warnings() {
		where = append(where, p.Where)
	}
	if got := strings.Join(where, " "); got != "--admin-listen --trusted-network --seeder --listen" {
		t.Errorf("got %s", got)
	}
}
