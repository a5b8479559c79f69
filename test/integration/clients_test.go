package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/samara-p2p/samara/test/lab"
)

// clientWorld is a seeder on one host and registry clients on another.
type clientWorld struct {
	t        *testing.T
	mode     string // "plain" or "secured": TLS, users and rules
	host     *lab.Host
	dir      string // what clients read and write
	registry string // IP:port of the seeder
	ca       string // file of its authority; "" for plain HTTP
	env      []string
	users    map[string][]string // a user's own environment
	docker   []string            // further flags of dockerd
	vars     map[string]string   // of scripts
}

// clientScripts are what each client does: testdata/clients/NAME.txt.
var clientScripts = []struct {
	name     string
	programs []string // with the package that has them, if it is named otherwise
	root     bool
	start    func(*clientWorld) // what it needs to run before
}{
	{name: "skopeo", programs: []string{"skopeo"}},
	{name: "podman", programs: []string{"podman"}, root: true},
	{name: "docker", programs: []string{"dockerd", "docker"}, root: true, start: (*clientWorld).dockerd},
	{name: "crane", programs: []string{"crane"}},
	{name: "regctl", programs: []string{"regctl"}},
}

// packageOf says how to get a program that is not there.
var packageOf = map[string]string{"skopeo": "package skopeo", "podman": "package podman", "dockerd": "package docker.io", "docker": "package docker.io",
	"crane": "make clients", "regctl": "make clients", "ctr": "package containerd", "cripull": "make runtimes"}

// TestClients runs real clients against a seeder, over plain HTTP where everybody
// may do everything, and with TLS, logins and rules.
func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	for _, mode := range []string{"plain", "secured"} {
		t.Run(mode, func(t *testing.T) {
			w := newClientWorld(t, mode)
			for _, s := range clientScripts {
				t.Run(s.name, func(t *testing.T) {
					for _, p := range s.programs {
						if _, err := lookClient(p); err != nil {
							t.Skipf("%s is not installed: %s", p, packageOf[p])
						}
					}
					if s.root && lab.Missing() != nil {
						t.Skip(lab.Missing())
					}
					c := *w
					c.t = t
					if s.start != nil {
						s.start(&c)
					}
					c.script(filepath.Join("testdata", "clients", s.name+".txt"))
				})
			}
			t.Run("oras", w.oras)
		})
	}
}

// lookClient finds a program in the PATH, or where `make clients` puts it.
func lookClient(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"../../bin", "/usr/sbin"} {
		if p, err := filepath.Abs(filepath.Join(dir, name)); err == nil && isExecutable(p) {
			return p, nil
		}
	}
	return "", err
}

func isExecutable(path string) bool {
	in, err := os.Stat(path)
	return err == nil && in.Mode().IsRegular() && in.Mode()&0o111 != 0
}

func newClientWorld(t *testing.T, mode string) *clientWorld {
	t.Helper()
	l := lab.ForTest(t, lab.Options{Rate: -1, Loopback: lab.Missing() != nil})
	var hosts [2]*lab.Host
	for i, name := range []string{"seeder", "client"} {
		var err error
		if hosts[i], err = l.NewHost(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	w := &clientWorld{t: t, mode: mode, host: hosts[1], dir: hosts[1].Dir(), registry: hosts[0].Addr(lab.SeederPort)}
	args := []string{"--local", "team", "--log-level", "warn", "--log-format", "console"}
	if mode == "secured" {
		secrets := hosts[0].Dir()
		writeSecrets(t, secrets, hosts[0].IP)
		args = append(args, "--htpasswd", filepath.Join(secrets, "htpasswd"), "--tls-cert", filepath.Join(secrets, "tls.crt"), "--tls-key", filepath.Join(secrets, "tls.key"),
			"--allow", "user:alice pull local/team/**", "--allow", "user:robot pull+push+delete+catalog local/**")
		w.ca = filepath.Join(secrets, "tls.crt")
		w.env = append(w.env, "SSL_CERT_FILE="+w.ca)
	} else {
		args = append(args, "--allow", "anyone pull+push+delete+catalog **")
	}
	s, err := lab.StartSeeder(t.Context(), binaries, hosts[0], lab.SeederConfig{OpenSwarm: true, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the seeder's log:\n%s", s.Tail(50))
		}
	})
	w.material()
	return w
}

// material is what clients push: an image, an index of two images, and a root
// file system.
func (w *clientWorld) material() {
	w.t.Helper()
	image := randomImage(w.t, types.OCILayer)
	writeLayout(w.t, filepath.Join(w.dir, "image"), image)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: randomImage(w.t, types.OCILayer),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	writeLayout(w.t, filepath.Join(w.dir, "index"), index)
	digest, err := image.Digest()
	if err != nil {
		w.t.Fatal(err)
	}
	indexDigest, err := index.Digest()
	if err != nil {
		w.t.Fatal(err)
	}
	var root bytes.Buffer
	tw := tar.NewWriter(&root)
	content := bytes.Repeat([]byte("samara "), 100_000)
	if err = tw.WriteHeader(&tar.Header{Name: "content", Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err == nil {
		_, err = tw.Write(content)
	}
	if err == nil {
		err = tw.Close()
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, "root.tar"), root.Bytes(), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "samara") // podman wants less than 50 characters
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(short) })
	w.vars = map[string]string{"dir": w.dir, "short": short, "registry": w.registry, "digest": digest.String(), "index_digest": indexDigest.String()}
}

// dockerd runs a daemon that touches nothing of the machine's.
func (w *clientWorld) dockerd() {
	w.t.Helper()
	path, err := lookClient("dockerd")
	if err != nil {
		w.t.Fatal(err)
	}
	dir := filepath.Join(w.dir, "docker")
	config := filepath.Join(w.dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	socket := "unix://" + filepath.Join(w.dir, "docker.sock")
	args := []string{"--config-file", config, "--data-root", dir, "--exec-root", filepath.Join(w.dir, "docker-run"), "--pidfile", filepath.Join(w.dir, "docker.pid"),
		"--host", socket, "--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver", "vfs"}
	if w.mode == "plain" {
		args = append(args, "--insecure-registry", w.registry)
	}
	args = append(args, w.docker...)
	p, err := w.host.Start(w.t.Context(), lab.Command{Name: "dockerd", Path: path, Args: args, Env: w.env, PrivateMounts: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("dockerd's log:\n%s", p.Tail(30))
		}
		if _, err := p.Stop(20 * time.Second); err != nil {
			w.t.Error(err)
		}
	})
	w.env = append(append([]string(nil), w.env...), "DOCKER_HOST="+socket)
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	if err := lab.Eventually(ctx, func() error {
		_, err := w.run("robot", []string{"docker", "version"})
		return err
	}); err != nil {
		w.t.Fatalf("dockerd: %v\n%s", err, p.Tail(20))
	}
}

// run runs a command on the clients' host. Each user has credentials of their own.
func (w *clientWorld) run(user string, args []string) (string, error) {
	path, err := lookClient(args[0])
	if err != nil {
		return "", err
	}
	home := filepath.Join(w.dir, "home-"+user)
	if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
		return "", err
	}
	env := append([]string{"-i", "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + home, "XDG_RUNTIME_DIR=" + filepath.Join(home, "run"),
		"REGCTL_CONFIG=" + filepath.Join(home, "regctl.json")}, append(w.env, w.users[user]...)...)
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := w.host.Run(ctx, "env", append(append(env, path), args[1:]...)...)
	if err != nil {
		return string(out) + err.Error(), err
	}
	return string(out), nil
}

// script runs a file of testdata/clients, whose lines are
//
//	USER: COMMAND        which has to succeed,
//	USER! COMMAND        or has to fail,
//	? REGEXP             and what it prints to match, on standard error only if it fails,
//	?! REGEXP            or not to;
//	name = REGEXP        the submatch of what it printed is $name from here on
//	[MODE] LINE          only in this mode
//	name := VALUE
//
// $registry, $dir (and $short, for paths that may not be long), $digest and
// $index_digest are there at the beginning.
func (w *clientWorld) script(file string) {
	w.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	vars := make(map[string]string)
	for k, v := range w.vars {
		vars[k] = v
	}
	command, out := "", ""
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if mode, rest, ok := strings.Cut(strings.TrimPrefix(line, "["), "] "); ok && strings.HasPrefix(line, "[") {
			if mode != w.mode {
				continue
			}
			line = strings.TrimSpace(rest)
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		line = os.Expand(line, func(name string) string {
			v, ok := vars[name]
			if !ok {
				w.t.Fatalf("%s:%d: $%s is not known", file, n, name)
			}
			return v
		})
		if err := w.line(line, vars, &command, &out); err != nil {
			w.t.Fatalf("%s:%d: %v", file, n, err)
		}
	}
}

var (
	assignment = regexp.MustCompile(`^([a-z_]+) (:?=)(?: (.*))?$`)
	execution  = regexp.MustCompile(`^([a-z]+)([:!]) (.*)$`)
)

// line runs one of a script. command and out are of the last that was run.
func (w *clientWorld) line(line string, vars map[string]string, command, out *string) error {
	if m := assignment.FindStringSubmatch(line); m != nil {
		if m[2] == ":=" {
			vars[m[1]] = m[3]
			return nil
		}
		found := regexp.MustCompile(m[3]).FindStringSubmatch(*out)
		if len(found) != 2 {
			return fmt.Errorf("%s: no %s in\n%s", *command, m[3], *out)
		}
		vars[m[1]] = found[1]
		return nil
	}
	if m := execution.FindStringSubmatch(line); m != nil {
		var err error
		*command = m[3]
		*out, err = w.run(m[1], strings.Fields(m[3]))
		if (err != nil) != (m[2] == "!") {
			return fmt.Errorf("%s as %s: %v\n%s", m[3], m[1], err, *out)
		}
		return nil
	}
	want, ok := strings.CutPrefix(line, "?")
	not := strings.HasPrefix(want, "!")
	if !ok {
		return fmt.Errorf("not understood: %s", line)
	}
	re, err := regexp.Compile("(?i)" + strings.TrimSpace(strings.TrimPrefix(want, "!")))
	if err != nil {
		return err
	}
	if re.MatchString(*out) == not {
		return fmt.Errorf("%s prints, against %s:\n%s", *command, line, *out)
	}
	return nil
}
