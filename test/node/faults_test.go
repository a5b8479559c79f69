package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// Each fault that the doctor knows is made in a real host, found, named, and its
// remedy says what is wrong here; without one it finds nothing. contract 23
func TestDoctor(t *testing.T) {
	w := newWard(t, "containerd", 2)
	hosts := "/etc/containerd/certs.d/docker.io/hosts.toml"
	replace := func(t *testing.T, path, text string) { // until the end of the test
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, text)
		t.Cleanup(func() { write(t, path, string(before)) })
	}
	stopPeerd := func(t *testing.T) {
		if _, err := w.peerd.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := w.peerd.Restart(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	gate := func(t *testing.T, f func(http.ResponseWriter, *http.Request) bool) {
		w.gate.Store(&f)
		t.Cleanup(func() { w.gate.Store(nil) })
	}
	for _, c := range []struct {
		name    string
		make    func(*testing.T)
		want    []string // the first is the fault, others follow from it
		verdict string
		remedy  string
		args    []string
	}{
		{name: "healthy", verdict: "proven"},
		{name: "no runtime that can be tried", args: []string{"--no-canary"}, verdict: "unproven"},
		{name: "hosts.toml is gone", make: func(t *testing.T) { replace(t, hosts, "") },
			want: []string{"not-configured", "canary-bypassed"}, verdict: "bypassed", remedy: "setup apply"},
		{name: "another peerd's admin server", args: []string{"--admin-listen", w.host.Local(1)},
			want: []string{"peerd-unreachable"}, verdict: "impaired", remedy: "--admin-listen"},
		{name: "mirror hangs", make: func(t *testing.T) { w.peerd.Pause(); t.Cleanup(w.peerd.Resume) },
			want: []string{"mirror-hung"}, verdict: "bypassed", remedy: "restart peerd"},
		{name: "packets to the mirror are dropped", make: func(t *testing.T) { drop(t, w.host.IP, w.host.Port(lab.MirrorPort)) },
			want: []string{"mirror-hung"}, verdict: "bypassed"},
		{name: "seeder wants a login", make: func(t *testing.T) {
			gate(t, func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(401); return true })
		}, want: []string{"seeder-denied"}, verdict: "impaired", remedy: "login"},
		{name: "seeder refuses the swarm key", make: func(t *testing.T) {
			gate(t, func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v2/" {
					rw.WriteHeader(401)
				}
				return r.URL.Path == "/v2/"
			})
		}, want: []string{"seeder-denied"}, verdict: "impaired", remedy: "rule for `peers`"},
		{name: "another server at the seeder's URL", make: func(t *testing.T) {
			gate(t, func(rw http.ResponseWriter, _ *http.Request) bool { fmt.Fprint(rw, "hello"); return true })
		}, want: []string{"seeder-is-another"}, verdict: "impaired", remedy: "--seeder"},
		{name: "clock is wrong", make: func(t *testing.T) {
			gate(t, func(_ http.ResponseWriter, r *http.Request) bool {
				r.Header.Set("Test-Date", time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat))
				return false
			})
		}, want: []string{"clock-skew"}, verdict: "impaired", remedy: "NTP"},
		{name: "pieces port is firewalled", make: func(t *testing.T) { drop(t, w.host.IP, w.host.Port(lab.PiecesPort)) },
			want: []string{"peer-port-closed"}, verdict: "impaired", remedy: fmt.Sprint(w.host.Port(lab.PiecesPort))},
		{name: "libp2p port is firewalled", make: func(t *testing.T) { drop(t, w.host.IP, w.host.Port(lab.P2PPort)) },
			want: []string{"peer-port-closed"}, verdict: "impaired", remedy: fmt.Sprint(w.host.Port(lab.P2PPort))},
		{name: "disk is full", make: func(t *testing.T) {
			big := filepath.Join(filepath.Dir(w.data), "big")
			_, _ = try(t, "dd", "if=/dev/zero", "of="+big, "bs=1M") // it ends when the disk is full
			t.Cleanup(func() { os.Remove(big) })
		}, want: []string{"disk-full"}, verdict: "impaired", remedy: "room"},
		{name: "disk hangs", make: func(t *testing.T) {
			output(t, "fsfreeze", "-f", filepath.Dir(w.data))
			t.Cleanup(func() { output(t, "fsfreeze", "-u", filepath.Dir(w.data)) })
		}, want: []string{"disk-slow"}, verdict: "impaired", remedy: "iostat"},
		{name: "registry that peerd does not stand for", make: func(t *testing.T) {
			w.t = t
			w.apply("--registry", "quay.test")
			t.Cleanup(func() { w.apply() })
		}, want: []string{"registry-unknown"}, verdict: "bypassed", remedy: "--upstream quay.test="},
		{name: "config_path is missing", make: func(t *testing.T) { w.containerdWithout(t, "") },
			want: []string{"config-path-missing", "canary-bypassed"}, verdict: "bypassed", remedy: "setup plan"},
		{name: "config_path is shadowed by an import", make: func(t *testing.T) {
			w.containerdWithout(t, "[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\"\n")
		}, want: []string{"config-path-shadowed", "canary-bypassed"}, verdict: "bypassed", remedy: "setup plan"},
		{name: "pull that passed the mirror by", make: w.pullPast,
			want: []string{"bypassed-lately?"}, verdict: "proven", remedy: "canary"},
		{name: "peerd is stopped", make: stopPeerd, want: []string{"mirror-down"}, verdict: "bypassed", remedy: "start peerd"},
		{name: "mirror's port is taken", make: func(t *testing.T) { stopPeerd(t); answerAt(t, w.host, lab.MirrorPort) },
			want: []string{"port-taken"}, verdict: "bypassed", remedy: "--listen"},
		{name: "libp2p port is taken", make: func(t *testing.T) { stopPeerd(t); answerAt(t, w.host, lab.P2PPort) },
			want: []string{"port-taken"}, verdict: "bypassed", remedy: "another port"},
		{name: "swarm key is another", make: func(t *testing.T) {
			stopPeerd(t)
			key := w.key
			w.key = filepath.Join(t.TempDir(), "swarm.key")
			write(t, w.key, "/key/swarm/psk/1.0.0/\n/base16/\n"+strings.Repeat("5a", 32)+"\n")
			t.Cleanup(func() { w.key = key })
		}, want: []string{"key-wrong", "mirror-down"}, verdict: "bypassed", remedy: "swarm.key"},
		{name: "containerd's disk is full", make: w.fillContainerd,
			want: []string{"canary-failed"}, verdict: "bypassed", remedy: "its own log"},
		{name: "disk fails", make: w.breakDisk,
			want: []string{"disk-failing"}, verdict: "impaired", remedy: "dmesg"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.make != nil {
				c.make(t)
			}
			status := map[string]int{"proven": 0, "bypassed": 10, "impaired": 11, "unproven": 12}[c.verdict]
			w.finds(t, c.verdict, status, c.want, c.remedy, c.args...)
		})
	}
	t.Run("after all of them", func(t *testing.T) {
		w.t = t
		w.joined()
		w.finds(t, "proven", 0, nil, "")
	})
	w.behind(t)
}

// containerd from 2.1 on reads nothing of two folders, and says nothing. The
// doctor believes the canary, not the version.
func TestDoctorTwoFolders(t *testing.T) {
	w := newWard(t, "containerd2", 3)
	w.finds(t, "proven", 0, nil, "")
	before, err := os.ReadFile(containerdFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, containerdFile, strings.Replace(string(before), `"/etc/containerd/certs.d"`, `"/etc/containerd/certs.d:/etc/docker/certs.d"`, 1))
	w.runtime.restart()
	w.finds(t, "bypassed", 10, []string{"config-path-two-folders", "canary-bypassed"}, "setup plan")
}

// Every runtime of a host has a canary of its own, and a history.
func TestDoctorEveryRuntime(t *testing.T) {
	podman := needs(t, "podman", "package podman")
	w := newWard(t, "containerd", 2)
	docker := dockerd(t, w.host)
	write(t, "/etc/containers/registries.conf", "unqualified-search-registries = []\n")
	write(t, "/etc/containers/containers.conf", "[engine]\nevents_logger = \"file\"\n") // there is no journald here
	t.Cleanup(func() {
		for _, name := range []string{"registries.conf", "registries.conf.d", "containers.conf"} {
			os.RemoveAll(filepath.Join("/etc/containers", name))
		}
	})
	w.apply("--runtime", "docker,podman")
	docker.restart()
	w.finds(t, "proven", 0, nil, "")
	checks, _, _ := w.doctor()
	pulled := 0
	for _, c := range checks {
		if c.Check == "canary" && c.Result == "ok" {
			pulled++
		}
	}
	if pulled != 3 {
		t.Errorf("%d canaries came: %+v", pulled, checks)
	}
	for name, out := range map[string]string{"docker": output(t, needs(t, "docker", "package docker.io"), "images", "-q"), "podman": output(t, podman, "images", "-q"),
		"containerd": output(t, needs(t, "ctr", "package containerd"), "-n", "k8s.io", "images", "list", "-q")} {
		if strings.TrimSpace(out) != "" {
			t.Errorf("%s has images left: %s", name, out)
		}
	}
	ours, err := os.ReadFile("/etc/containers/registries.conf.d/50-samara.conf")
	if err != nil {
		t.Fatal(err)
	}
	past := fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n", strings.TrimPrefix(w.up.url, "http://"))
	write(t, "/etc/containers/registries.conf.d/50-samara.conf", past)
	output(t, podman, "pull", "--quiet", "docker.io/library/other:v1")
	write(t, "/etc/containers/registries.conf.d/50-samara.conf", string(ours))
	w.finds(t, "proven", 0, []string{"bypassed-lately?"}, "canary")
	if err := os.Remove("/etc/containers/registries.conf.d/50-samara.conf"); err != nil {
		t.Fatal(err)
	}
	w.finds(t, "bypassed", 10, []string{"not-configured", "canary-bypassed", "bypassed-lately"}, "setup apply")
	write(t, dockerFile, "{}")
	docker.restart()
	w.finds(t, "bypassed", 10, []string{"not-configured", "canary-bypassed", "bypassed-lately"}, "setup apply")
}

// behind has the faults of what is behind peerd that do not go away again.
func (w *ward) behind(t *testing.T) {
	t.Run("upstream gives wrong bytes", func(t *testing.T) {
		w.up.corrupt()
		get := func(path string) (int, []byte) {
			resp, err := http.Get("http://" + w.host.Local(lab.MirrorPort) + "/v2/library/app/" + path + "?ns=docker.io")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return resp.StatusCode, body
		}
		_, body := get("manifests/v1")
		var m struct{ Layers []struct{ Digest string } }
		if err := json.Unmarshal(body, &m); err != nil || len(m.Layers) == 0 {
			t.Fatalf("%s, %v", body, err)
		}
		if code, body := get("blobs/" + m.Layers[0].Digest); code == 200 && len(body) >= 300_000 {
			t.Errorf("%d, and %d bytes of a layer that the upstream does not give", code, len(body))
		}
		w.finds(t, "impaired", 11, []string{"digest-mismatch"}, "upstream")
	})
	t.Run("upstream is gone", func(t *testing.T) {
		w.up.stop()
		w.finds(t, "impaired", 11, []string{"upstream-unreachable?", "digest-mismatch"}, "DNS")
	})
	t.Run("no peers", func(t *testing.T) {
		drop(t, w.seederHost.IP, w.seederHost.Port(lab.P2PPort))
		if _, err := w.peerd.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		if err := w.peerd.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.finds(t, "impaired", 11, []string{"no-peers", "upstream-unreachable?"}, "4001")
	})
	t.Run("seeder and upstream are gone", func(t *testing.T) {
		if _, err := w.seeder.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		w.finds(t, "impaired", 11, []string{"seeder-unreachable", "no-peers", "upstream-unreachable"}, "start the seeder")
	})
	t.Run("the one neighbour is not in the DHT", func(t *testing.T) {
		if _, err := w.peerd.Stop(20 * time.Second); err != nil { // its DHT remembers the seeder
			t.Fatal(err)
		}
		if err := w.peerd.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.joinBesideDHT(t)
		w.finds(t, "impaired", 11, []string{"dht-alone", "seeder-unreachable", "upstream-unreachable"}, "release")
	})
}

// containerdWithout has containerd run without a config_path, until the end of the
// test: its line is gone, or where an import is given, that replaces it.
func (w *ward) containerdWithout(t *testing.T, imported string) {
	w.t, w.runtime.t = t, t
	before, err := os.ReadFile(containerdFile)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(before), "config_path", "#config_path", 1)
	if imported != "" {
		write(t, "/etc/containerd/conf.d/more.toml", "version = 2\n"+imported)
		text = strings.Replace(string(before), "\nroot = ", "\nimports = [\"/etc/containerd/conf.d/*.toml\"]\nroot = ", 1)
	}
	write(t, containerdFile, text)
	w.runtime.restart()
	t.Cleanup(func() {
		write(t, containerdFile, string(before))
		os.RemoveAll("/etc/containerd/conf.d")
		w.runtime.restart()
	})
}

// fillContainerd leaves containerd no room for what it pulls, until the end of the
// test.
func (w *ward) fillContainerd(t *testing.T) {
	dir := filepath.Join(w.runtime.root, "io.containerd.content.v1.content", "ingest")
	output(t, "mount", "-t", "tmpfs", "-o", "size=64k", "full", dir)
	t.Cleanup(func() { output(t, "umount", dir) })
	_, _ = try(t, "dd", "if=/dev/zero", "of="+filepath.Join(dir, "big"), "bs=4k") // it ends when the disk is full
}

// breakDisk has the file system of peerd's data give up, as ext4 does when its
// disk fails, until the end of the test.
func (w *ward) breakDisk(t *testing.T) {
	dir := filepath.Dir(w.data)
	output(t, "mount", "-o", "remount,abort", dir)
	t.Cleanup(func() {
		if _, err := w.peerd.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
		output(t, "umount", dir)
		image := filepath.Join(w.host.Dir(), "disk.img")
		if out, err := try(t, "e2fsck", "-f", "-y", image); err != nil && !strings.Contains(out, "MODIFIED") { // its status says that it has mended something
			t.Errorf("e2fsck: %v: %s", err, out)
		}
		output(t, "mount", "-o", "loop", image, dir)
		if err := w.peerd.Restart(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// pullPast has containerd pull an image of docker.io from there, while its files
// say so.
func (w *ward) pullPast(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "docker.io", "hosts.toml"), fmt.Sprintf("[host.%q]\n", w.up.url))
	output(t, needs(t, "ctr", "package containerd"), "-n", "k8s.io", "images", "pull", "--hosts-dir", dir, "--platform", "linux/amd64", "docker.io/library/other:v1")
}
