package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/samara-p2p/samara/test/lab"
)

// Client is a container client as the matrix drives it. It has one seat for
// good.
type Client interface {
	// Start runs what the client needs beside itself, with empty content.
	Start(ctx context.Context) error
	// Pull pulls an image, "repository:tag" or "repository@digest" without the
	// registry's name. The client verifies what it gets.
	Pull(ctx context.Context, image string) error
	// Remove forgets all content, so that it is pulled anew.
	Remove(ctx context.Context) error
	// Stop ends what Start started.
	Stop()
}

// Kind is a client as people know it.
type Kind struct {
	Name     string
	version  []string // command that prints it
	Runtime  string   // what `peerd setup` calls it; "": it has no such configuration
	Programs []string
	// MirrorOnly clients are told the mirror in the image's name, and go nowhere else.
	MirrorOnly bool
	// Sticky clients choose a mirror at the manifest and never leave it (contract 10).
	Sticky bool
	// Resumes clients go on at the next host where a mirror's death cut them off.
	Resumes bool
	New     func(s *Seat) Client
}

// Missing says why the client cannot run here; nil if it can.
func (k Kind) Missing() error {
	if err := Missing(); err != nil {
		return err
	}
	for _, p := range k.Programs {
		if _, err := look(p); err != nil {
			return fmt.Errorf("no %s (make clients runtimes): %w", p, err)
		}
	}
	return nil
}

// Version is what the client says of its own, in a line.
func (k Kind) Version(ctx context.Context) string {
	path, err := look(k.version[0])
	if err != nil {
		return err.Error()
	}
	out, err := exec.CommandContext(ctx, path, k.version[1:]...).Output()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// look finds a program in the PATH, in /usr/sbin, or where make puts those that
// it builds.
func look(name string) (string, error) {
	if dir := os.Getenv("SAMARA_CLIENTS"); dir != "" {
		if p := filepath.Join(dir, name); isProgram(p) {
			return p, nil
		}
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"bin", "../../bin", "/usr/sbin"} {
		if p, err := filepath.Abs(filepath.Join(dir, name)); err == nil && isProgram(p) {
			return p, nil
		}
	}
	return "", err
}

func isProgram(path string) bool {
	in, err := os.Stat(path)
	return err == nil && in.Mode().IsRegular() && in.Mode()&0o111 != 0
}

// Seat is a host as one client sees it, with an /etc of its own for what clients
// read there.
type Seat struct {
	host   *lab.Host
	root   string // below it etc/...
	mirror string // URL; "" = none
	// registry is the address of registry.lab.test.
	registry string
}

// etcs are the parts of /etc that are a seat's own.
var etcs = []string{"containerd", "docker", "containers"}

// newSeat makes the files of a host that has no mirror yet: every client reaches
// registry.lab.test over plain HTTP.
func newSeat(h *lab.Host, name, registryIP string) (*Seat, error) {
	s := &Seat{host: h, root: filepath.Join(h.Dir(), name), registry: registryIP}
	for path, text := range map[string]string{
		"etc/hosts": "127.0.0.1 localhost\n" + registryIP + " " + registryName + "\n",
		"etc/containerd/certs.d/" + registryName + "/hosts.toml": "server = \"http://" + registryName + "\"\n",
		"etc/containerd/config.toml":                             "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
		// dockerd has mirrors for Docker Hub only. Another one stands in for it.
		"etc/docker/daemon.json":         "{\"registry-mirrors\": [\"http://" + registryName + "\"]}\n",
		"etc/containers/policy.json":     "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}\n",
		"etc/containers/registries.conf": "[[registry]]\nprefix = \"" + registryName + "\"\nlocation = \"" + registryName + "\"\ninsecure = true\n",
	} {
		file := filepath.Join(s.root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// straightOnly is for a seat that stays without a mirror: containerd uses a server
// of plain HTTP only where there is a host, too.
func (s *Seat) straightOnly() error {
	url := "http://" + registryName
	return os.WriteFile(filepath.Join(s.root, "etc/containerd/certs.d", registryName, "hosts.toml"), []byte("server = \""+url+"\"\n\n[host.\""+url+"\"]\n"), 0o644)
}

// setUp has peerd put the mirror into the configuration of a runtime.
func (s *Seat) setUp(ctx context.Context, peerd, runtime, mirror string) error {
	s.mirror = mirror
	if runtime == "" {
		return nil
	}
	args := []string{"--root", s.root, "--runtime", runtime, "--registry", registryName, "--mirror", mirror}
	if runtime == "docker" {
		args[5] = "docker.io"
	}
	out, err := exec.CommandContext(ctx, peerd, append([]string{"setup", "apply"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("peerd setup apply %v: %w\n%s", args, err, out)
	}
	return nil
}

// path is a directory of the seat, made when missing.
func (s *Seat) path(elem ...string) string {
	dir := filepath.Join(append([]string{s.root}, elem...)...)
	_ = os.MkdirAll(filepath.Dir(dir), 0o755)
	return dir
}

// within is a command that runs with the seat's own files in /etc.
func (s *Seat) within(env []string, program string, args []string) (string, []string, error) {
	path, err := look(program)
	if err != nil {
		return "", nil, err
	}
	sh := "set -e; mount --bind " + filepath.Join(s.root, "etc/hosts") + " /etc/hosts; "
	for _, d := range etcs {
		if err := os.MkdirAll("/etc/"+d, 0o755); err != nil {
			return "", nil, err
		}
		sh += "mount --bind " + filepath.Join(s.root, "etc", d) + " /etc/" + d + "; "
	}
	all := append([]string{"--mount", "sh", "-c", sh + `exec env "$@"`, "sh", "HOME=" + s.root}, env...)
	return "unshare", append(append(all, path), args...), nil
}

// run runs a short program; its error has what it printed.
func (s *Seat) run(ctx context.Context, env []string, program string, args ...string) (string, error) {
	path, all, err := s.within(env, program, args)
	if err != nil {
		return "", err
	}
	out, err := s.host.Run(ctx, path, all...)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return strings.TrimSpace(string(out)), err
}

// start starts a daemon.
func (s *Seat) start(ctx context.Context, name, program string, args ...string) (*lab.Process, error) {
	path, all, err := s.within(nil, program, args)
	if err != nil {
		return nil, err
	}
	if path, err = exec.LookPath(path); err != nil {
		return nil, err
	}
	return s.host.Start(ctx, lab.Command{Name: name, Path: path, Args: all, PrivateMounts: true})
}

// until waits for a daemon to answer a command.
func (s *Seat) until(ctx context.Context, p *lab.Process, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return lab.Eventually(ctx, func() error {
		if !p.Running() {
			return fmt.Errorf("%w: %s", lab.ErrExited, p.Tail(5))
		}
		_, err := s.run(ctx, nil, program, args...)
		return err
	})
}
