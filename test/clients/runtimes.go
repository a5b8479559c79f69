package clients

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// startTimeout is how long a daemon may take to answer.
const startTimeout = 60 * time.Second

// containerd is one of two generations, driven by ctr or over CRI.
type containerd struct {
	*Seat
	daemon, ctr string // programs
	cri         bool
	chunk       int // concurrent_layer_fetch_buffer; 0 = off
	local       bool
	p           *lab.Process
}

func containerdKind(name string, c containerd) Kind {
	k := Kind{Name: name, Runtime: "containerd", version: []string{c.daemon, "--version"}, Programs: []string{c.daemon, c.ctr}, Resumes: c.chunk == 0}
	if c.cri {
		k.Programs = append(k.Programs, "cripull")
	}
	k.New = func(s *Seat) Client {
		n := c
		n.Seat = s
		return &n
	}
	return k
}

// The plugins left are those that a pull needs.
const containerd1 = `version = 2
root = %[1]q
state = %[2]q
disabled_plugins = [%[4]s
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.monitor.v1.cgroups", "io.containerd.internal.v1.restart", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = %[3]q
[plugins."io.containerd.internal.v1.opt"]
  path = %[5]q
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = %[5]q
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
`

const containerd2 = `version = 3
root = %[1]q
state = %[2]q
disabled_plugins = [%[4]s
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.restart"]
[grpc]
  address = %[3]q
[plugins."io.containerd.internal.v1.opt"]
  path = %[5]q
[plugins."io.containerd.transfer.v1.local"]
  concurrent_layer_fetch_buffer = %[6]d
[plugins."io.containerd.cri.v1.images"]
  concurrent_layer_fetch_buffer = %[6]d
  use_local_image_pull = %[7]t
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = %[5]q
    bin_dirs = [%[5]q]
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
`

func (c *containerd) sock() string { return c.path("containerd.sock") }

func (c *containerd) Start(ctx context.Context) error {
	data, state := c.path("containerd", "root"), c.path("containerd", "state")
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	text, off := containerd1, ""
	if c.daemon == "containerd2" {
		text = containerd2
	} else if !c.cri {
		off = `"io.containerd.grpc.v1.cri",`
	}
	config := c.path("containerd.toml")
	if c.daemon == "containerd2" {
		text = fmt.Sprintf(text, data, state, c.sock(), off, c.path("containerd", "opt"), c.chunk, c.local)
	} else {
		text = fmt.Sprintf(text, data, state, c.sock(), off, c.path("containerd", "opt"))
	}
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	var err error
	if c.p, err = c.start(ctx, c.daemon, c.daemon, "--config", config); err != nil {
		return err
	}
	ready := []string{c.ctr, "-a", c.sock(), "version"}
	if c.cri {
		ready = []string{"cripull", "-endpoint", "unix://" + c.sock(), "status"}
	}
	return c.until(ctx, c.p, ready[0], ready[1:]...)
}

func (c *containerd) Stop() {
	if c.p != nil {
		c.p.Kill()
	}
}

func (c *containerd) Pull(ctx context.Context, image string) error {
	image = registryName + "/" + image
	if c.cri {
		_, err := c.run(ctx, nil, "cripull", "-timeout", "10m", "-endpoint", "unix://"+c.sock(), "pull", image)
		return err
	}
	args := []string{"-a", c.sock(), "images", "pull", "--platform", "linux/amd64", "--hosts-dir", "/etc/containerd/certs.d", image}
	_, err := c.run(ctx, nil, c.ctr, args...)
	return err
}

func (c *containerd) Remove(ctx context.Context) error {
	ns := "default"
	if c.cri {
		ns = "k8s.io"
	}
	names, err := c.run(ctx, nil, c.ctr, "-a", c.sock(), "-n", ns, "images", "list", "-q")
	if err != nil || names == "" {
		return err
	}
	_, err = c.run(ctx, nil, c.ctr, append([]string{"-a", c.sock(), "-n", ns, "images", "rm", "--sync"}, strings.Fields(names)...)...)
	return err
}

// docker is dockerd with its own store.
type docker struct {
	*Seat
	p *lab.Process
}

func (d *docker) env() []string { return []string{"DOCKER_HOST=unix://" + d.path("docker.sock")} }

func (d *docker) Start(ctx context.Context) error {
	data := d.path("docker")
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	_ = os.Remove(d.path("docker.pid"))
	_ = os.Remove(d.path("docker-run", "containerd", "containerd.pid"))
	var err error
	d.p, err = d.start(ctx, "dockerd", "dockerd", "--config-file", "/etc/docker/daemon.json", "--data-root", data, "--exec-root", d.path("docker-run"),
		"--pidfile", d.path("docker.pid"), "--host", "unix://"+d.path("docker.sock"), "--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
		"--storage-driver", "vfs", "--insecure-registry", registryName)
	if err != nil {
		return err
	}
	return d.until(ctx, d.p, "env", append(d.env(), "docker", "version")...)
}

func (d *docker) Stop() {
	if d.p != nil {
		_, _ = d.p.Stop(20 * time.Second)
	}
}

// Pull has the image from Docker Hub, as far as dockerd knows.
func (d *docker) Pull(ctx context.Context, image string) error {
	_, err := d.run(ctx, d.env(), "docker", "pull", "--quiet", image)
	return err
}

func (d *docker) Remove(ctx context.Context) error {
	ids, err := d.run(ctx, d.env(), "docker", "images", "--quiet", "--no-trunc")
	if err != nil || ids == "" {
		return err
	}
	_, err = d.run(ctx, d.env(), "docker", append([]string{"rmi", "--force"}, strings.Fields(ids)...)...)
	return err
}
