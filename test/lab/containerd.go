package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Containerd is a containerd of its own on a host, and its ctr as a Puller. Root,
// state, socket and mounts are the host's own.
type Containerd struct {
	*Process
	host     *Host
	ctr      string
	sock     string
	hostsDir string
	upstream string
}

// MissingContainerd says why containerd cannot run here; nil if it can.
func MissingContainerd() error {
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root")
	}
	for _, tool := range []string{"containerd", "ctr"} {
		if _, err := lookPath(tool); err != nil {
			return fmt.Errorf("no %s (Debian package containerd): %w", tool, err)
		}
	}
	return nil
}

// The plugins left are those that a pull needs: content, metadata, diff, snapshots.
const containerdConfig = `version = 2
root = %q
state = %q
oom_score = 0
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.monitor.v1.cgroups",
  "io.containerd.internal.v1.restart", "io.containerd.runtime.v1.linux", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing"]
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
`

// StartContainerd runs containerd on the host. Images of the upstream named
// upstreamName are asked of mirror ("" = none) and then of upstreamURL.
func StartContainerd(ctx context.Context, h *Host, upstreamName, upstreamURL, mirror string) (*Containerd, error) {
	if err := MissingContainerd(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	bin, _ := lookPath("containerd")
	ctr, _ := lookPath("ctr")
	dir := filepath.Join(h.dir, "containerd")
	c := &Containerd{host: h, ctr: ctr, sock: filepath.Join(h.dir, "c.sock"), hostsDir: filepath.Join(h.dir, "certs.d"), upstream: upstreamName}
	certs := filepath.Join(c.hostsDir, upstreamName)
	for _, d := range []string{dir, certs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("start containerd: %w", err)
		}
	}
	// Real hosts have a disk each. Here all would share one, and it is not containerd
	// that is under test: memory stands in where there is enough.
	if MemAvailable() > containerdMemory {
		if _, err := h.lab.MountTmpfs(filepath.Join("hosts", h.Name, "containerd"), containerdMemory/4); err != nil {
			return nil, fmt.Errorf("start containerd: %w", err)
		}
	}
	hosts := fmt.Sprintf("server = %q\n", upstreamURL)
	if mirror != "" {
		hosts += fmt.Sprintf("\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror)
	}
	if err := os.WriteFile(filepath.Join(certs, "hosts.toml"), []byte(hosts), 0o644); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	cfg := filepath.Join(h.dir, "containerd.toml")
	text := fmt.Sprintf(containerdConfig, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.sock, filepath.Join(dir, "opt"))
	if err := os.WriteFile(cfg, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	p, err := h.Start(ctx, Command{Name: "containerd", Path: bin, Args: []string{"--config", cfg}, PrivateMounts: true})
	if err != nil {
		return nil, err
	}
	c.Process = p
	if err := c.waitServing(ctx); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start containerd on %s: %w\n%s", h.Name, err, p.Tail(20))
	}
	return c, nil
}

// containerdMemory is the free memory in bytes from which on containerds keep
// their content there.
const containerdMemory = 12 << 30

// MemAvailable is the memory that the kernel could give in bytes; 0 if it does not say.
func MemAvailable() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// waitServing polls the socket with `ctr version`.
func (c *Containerd) waitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		select {
		case <-c.Done():
			return fmt.Errorf("%w with status %d", ErrExited, c.ExitCode())
		case <-ctx.Done():
			return fmt.Errorf("not serving: %w", last)
		case <-tick.C:
		}
		if _, err := os.Stat(c.sock); err != nil {
			last = err
			continue
		}
		if _, last = c.host.Run(ctx, c.ctr, "-a", c.sock, "version"); last == nil {
			return nil
		}
	}
}

// Pull implements Puller with `ctr images pull`: fetch, verify and unpack.
func (c *Containerd) Pull(ctx context.Context, repo, ref string) (*PullReport, error) {
	rep := &PullReport{Start: time.Now()}
	sep := ":"
	if strings.HasPrefix(ref, "sha256:") {
		sep = "@"
	}
	image := c.upstream + "/" + repo + sep + ref
	_, err := c.host.Run(ctx, c.ctr, "-a", c.sock, "images", "pull",
		"--hosts-dir", c.hostsDir, "--platform", "linux/amd64", "--snapshotter", "overlayfs", image)
	rep.Total = time.Since(rep.Start)
	if err != nil {
		return rep, fmt.Errorf("pull %s: %w", image, err)
	}
	out, err := c.host.Run(ctx, c.ctr, "-a", c.sock, "images", "list")
	if err != nil {
		return rep, fmt.Errorf("pull %s: list images: %w", image, err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[0] == image {
			rep.Digest = f[2]
			return rep, nil
		}
	}
	return rep, fmt.Errorf("pull %s: ctr reports success but does not list it", image)
}

// Remove forgets an image and its content, so that it can be pulled anew.
func (c *Containerd) Remove(ctx context.Context, repo, ref string) error {
	_, err := c.host.Run(ctx, c.ctr, "-a", c.sock, "images", "rm", "--sync", c.upstream+"/"+repo+":"+ref)
	return err
}

// Skopeo pulls with `skopeo copy` into a directory that it removes again. The
// mirror must be told the upstream in the path: skopeo sends no ?ns=.
type Skopeo struct {
	Host     *Host
	Mirror   string // host:port
	Upstream string // name
}

// MissingSkopeo says why skopeo cannot run here; nil if it can.
func MissingSkopeo() error {
	if _, err := lookPath("skopeo"); err != nil {
		return fmt.Errorf("no skopeo (Debian package skopeo): %w", err)
	}
	return nil
}

// Pull implements Puller.
func (s *Skopeo) Pull(ctx context.Context, repo, ref string) (*PullReport, error) {
	rep := &PullReport{Start: time.Now()}
	bin, err := lookPath("skopeo")
	if err != nil {
		return rep, err
	}
	dst, err := os.MkdirTemp(s.Host.dir, "skopeo-")
	if err != nil {
		return rep, err
	}
	defer os.RemoveAll(dst)
	_, err = s.Host.Run(ctx, bin, "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false",
		"docker://"+s.Mirror+"/"+s.Upstream+"/"+repo+":"+ref, "dir:"+dst)
	rep.Total = time.Since(rep.Start)
	if err != nil {
		return rep, fmt.Errorf("pull %s:%s with skopeo: %w", repo, ref, err)
	}
	return rep, nil
}
