package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/samara-p2p/samara/test/lab"
)

// privateScripts are what each runtime does with a private image that its host
// has cached: testdata/private/NAME.txt.
var privateScripts = []struct {
	name     string
	programs []string
	start    func(*privateWorld)
	// agent begins the User-Agent of a client that is served by the mirror: it
	// gets no blob from the upstream. "" for those that show mirrors nothing.
	agent string
}{
	{name: "ctr", programs: []string{"containerd", "ctr"}, start: (*privateWorld).containerd, agent: "containerd/"},
	{name: "cri", programs: []string{"containerd", "ctr", "cripull"}, start: (*privateWorld).containerd, agent: "containerd/"},
	{name: "docker", programs: []string{"dockerd", "docker"}, start: (*privateWorld).dockerd, agent: "docker/"},
	{name: "podman", programs: []string{"podman"}},
	{name: "skopeo", programs: []string{"skopeo"}},
}

// contract 24, 25, 26: whoever pulls a private image that is cached on the host
// without its pull secret is denied, whoever has it is served by the mirror, and
// clients that show mirrors nothing are served by the upstream.
func TestPrivateImages(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	if err := lab.Missing(); err != nil {
		t.Skip(err) // Docker Hub must be out of reach
	}
	w := newPrivateWorld(t)
	for _, s := range privateScripts {
		t.Run(s.name, func(t *testing.T) {
			for _, p := range s.programs {
				if _, err := lookClient(p); err != nil {
					t.Skipf("%s is not installed: %s", p, packageOf[p])
				}
			}
			c, world := *w.clientWorld, *w
			c.t, world.clientWorld = t, &c
			before := world.blobs(s.agent)
			if s.start != nil {
				s.start(&world)
			}
			c.script(filepath.Join("testdata", "private", s.name+".txt"))
			if got := world.blobs(s.agent); s.agent != "" && got != before {
				t.Errorf("the client had %d blobs from the upstream", got-before)
			}
		})
	}
	w.leaks()
}

// privateWorld is a registry with logins that is called docker.io, a seeder with
// credentials for it, and a host whose clients ask a mirror, and then that
// registry.
type privateWorld struct {
	*clientWorld
	upstream *lab.Seeder
	log      string // of the registry's requests
	peerd    *lab.Peerd
	mirror   string // host:port
	certs    string // containerd's
	dirs     []string
}

func newPrivateWorld(t *testing.T) *privateWorld {
	t.Helper()
	l := lab.ForTest(t, lab.Options{Rate: -1})
	hosts := map[string]*lab.Host{}
	for _, name := range []string{"upstream", "seeder", "node"} {
		h, err := l.NewHost(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		hosts[name] = h
	}
	node := hosts["node"]
	w := &privateWorld{clientWorld: &clientWorld{t: t, mode: "private", host: node, dir: node.Dir()}, mirror: node.Local(lab.MirrorPort)}
	secrets := hosts["upstream"].Dir()
	writeSecrets(t, secrets, hosts["upstream"].IP)
	w.log = filepath.Join(secrets, "access.log")
	ctx := t.Context()
	var err error
	w.upstream, err = lab.StartSeeder(ctx, binaries, hosts["upstream"], lab.SeederConfig{OpenSwarm: true, Args: []string{"--local", "acme", "--htpasswd", filepath.Join(secrets, "htpasswd"),
		"--allow", "anyone pull local/acme/open", "--allow", "user:robot pull+push local/**", "--access-log", w.log}})
	if err != nil {
		t.Fatal(err)
	}
	w.registry = hosts["upstream"].Addr(lab.SeederPort)
	w.push()
	credentials := filepath.Join(hosts["seeder"].Dir(), "credentials")
	w.write(credentials, "robot:robot-secret\n")
	seeder, err := lab.StartSeeder(ctx, binaries, hosts["seeder"], lab.SeederConfig{
		Upstreams: []lab.NamedURL{{Name: "docker.io", URL: w.upstream.URL + " credentials-file=" + credentials}},
		Args:      []string{"--log-level", "debug"}})
	if err != nil {
		t.Fatal(err)
	}
	w.peerd, err = lab.StartPeerd(ctx, binaries, node, lab.PeerdConfig{Seeder: seeder.URL, SwarmKey: seeder.SwarmKey, Args: []string{"--log-level", "debug", "--docker-tokens"}})
	if err != nil {
		t.Fatal(err)
	}
	w.dirs = []string{seeder.Data, w.peerd.Data, seeder.LogPath(), w.peerd.LogPath()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("peerd's log:\n%s", w.peerd.Tail(60))
		}
	})
	w.configure()
	return w
}

func (w *privateWorld) write(file, text string) {
	w.t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// push puts a private image and a public one into the registry.
func (w *privateWorld) push() {
	w.t.Helper()
	for i, repo := range []string{"open", "secret"} {
		img, err := lab.NewImage(lab.ImageSpec{Layers: []int64{3 << 20, 100 << 10}, Seed: uint64(40 + i)})
		if err != nil {
			w.t.Fatal(err)
		}
		ref, err := name.NewTag(w.registry+"/acme/"+repo+":v1", name.Insecure)
		if err != nil {
			w.t.Fatal(err)
		}
		client := w.host.HTTPClient()
		err = remote.Write(ref, img.V1(), remote.WithTransport(client.Transport), remote.WithContext(w.t.Context()),
			remote.WithAuth(&authn.Basic{Username: "robot", Password: "robot-secret"}))
		client.CloseIdleConnections()
		if err != nil {
			w.t.Fatal(err)
		}
		w.vars = map[string]string{"digest": img.Digest()} // in the end the private one's
	}
}

// configure writes what clients read, and gives robot the pull secret.
func (w *privateWorld) configure() {
	short, err := os.MkdirTemp("", "samara") // podman wants less than 50 characters
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(short) })
	w.certs = filepath.Join(w.dir, "certs.d")
	w.write(filepath.Join(w.certs, "docker.io", "hosts.toml"),
		fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", w.upstream.URL, "http://"+w.mirror))
	registries := filepath.Join(w.dir, "registries.conf")
	w.write(registries, fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", w.registry, w.mirror))
	w.write(filepath.Join(w.dir, "home-robot", ".docker", "config.json"), // robot:robot-secret
		`{"auths": {"https://index.docker.io/v1/": {"auth": "cm9ib3Q6cm9ib3Qtc2VjcmV0"}, "`+w.registry+`": {"auth": "cm9ib3Q6cm9ib3Qtc2VjcmV0"}}}`)
	w.env = []string{"CONTAINERS_REGISTRIES_CONF=" + registries}
	w.users = map[string][]string{"robot": {"CRIPULL_USER=robot", "CRIPULL_PASSWORD=robot-secret"}}
	w.docker = []string{"--registry-mirror", "http://" + w.mirror}
	for k, v := range map[string]string{"dir": w.dir, "short": short, "certs": w.certs, "registries": registries, "containerd": filepath.Join(short, "c.sock")} {
		w.vars[k] = v
	}
}

// criConfig is a containerd that a kubelet could pull with.
const criConfig = `version = 2
root = %q
state = %q
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.restart", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %q
`

// containerd runs one of its own for the length of a subtest.
func (w *privateWorld) containerd() {
	w.t.Helper()
	dir := filepath.Join(w.dir, "containerd-"+filepath.Base(w.t.Name()))
	config := filepath.Join(dir, "config.toml")
	w.write(config, fmt.Sprintf(criConfig, filepath.Join(dir, "root"), filepath.Join(dir, "state"), w.vars["containerd"], filepath.Join(dir, "opt"), w.certs))
	path, err := lookClient("containerd")
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := w.host.Start(w.t.Context(), lab.Command{Name: filepath.Base(dir), Path: path, Args: []string{"--config", config}, PrivateMounts: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("containerd's log:\n%s", p.Tail(30))
		}
		if _, err := p.Stop(20 * time.Second); err != nil {
			w.t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := lab.Eventually(ctx, func() error {
		_, err := w.run("nobody", []string{"ctr", "-a", w.vars["containerd"], "version"})
		return err
	}); err != nil {
		w.t.Fatalf("containerd: %v\n%s", err, p.Tail(20))
	}
}

// blobs counts those that clients with such a User-Agent got from the registry.
func (w *privateWorld) blobs(agent string) (n int) {
	w.t.Helper()
	f, err := os.Open(w.log)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for sc := bufio.NewScanner(f); sc.Scan(); lines++ {
		var line struct {
			Method, Kind, UserAgent string
			Status                  int
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			w.t.Fatalf("%s: %v", sc.Bytes(), err)
		}
		if line.Method == "GET" && line.Kind == "blob" && line.Status/100 == 2 && strings.HasPrefix(line.UserAgent, agent) {
			n++
		}
	}
	if lines == 0 {
		w.t.Error("the registry logged nothing")
	}
	return n
}

// leaks looks for what clients have shown in what the seeder and the peerd wrote.
func (w *privateWorld) leaks() {
	w.t.Helper()
	metrics, err := w.peerd.Metrics(w.t.Context())
	if err != nil || !strings.Contains(metrics, `peerd_private_answers_total{result="accepted",upstream="docker.io"}`) {
		w.t.Errorf("no token was accepted: %v", err)
	}
	files := 0
	for _, dir := range w.dirs {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			files++
			content, err := os.ReadFile(path)
			for _, secret := range []string{"robot-secret", "cm9ib3Q6cm9ib3Qtc2VjcmV0", "eyJ"} { // the last begins a JWT
				if i := strings.Index(string(content), secret); i >= 0 {
					w.t.Errorf("%s has a secret: %.120q", path, content[max(0, i-60):])
				}
			}
			return err
		})
		if err != nil {
			w.t.Error(err)
		}
	}
	if files < 10 {
		w.t.Errorf("looked at %d files", files)
	}
}
