package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

const (
	containerdFile = "/etc/containerd/config.toml"
	dockerFile     = "/etc/docker/daemon.json"
)

// containerdConfig is a hand-written one without config_path. What is disabled is
// not needed for pulls.
const containerdConfig = `# edited by hand
version = %d
root = %q

disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.nri.v1.nri", "io.containerd.monitor.v1.cgroups",
  "io.containerd.internal.v1.restart", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[plugins."io.containerd.internal.v1.opt"]
  path = %q   # no /opt here
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
`

// containerd starts Debian's, or that of `make runtimes`, at the usual places.
func containerd(t *testing.T, h *lab.Host, program string, format int) *service {
	from := "package containerd"
	if program != "containerd" {
		from = "make runtimes"
	}
	path := needs(t, program, from)
	if program != "containerd" { // it takes the place of Debian's, as an upgrade does
		place := needs(t, "containerd", "package containerd")
		output(t, "mount", "--bind", path, place)
		t.Cleanup(func() { output(t, "umount", place) })
		path = place
	}
	ctr := needs(t, "ctr", "package containerd")
	dir := filepath.Join(h.Dir(), program)
	write(t, containerdFile, fmt.Sprintf(containerdConfig, format, filepath.Join(dir, "root"), filepath.Join(dir, "opt")))
	s := &service{t: t, host: h, root: filepath.Join(dir, "root"), cmd: lab.Command{Name: program, Path: path}, up: func() error {
		_, err := try(t, ctr, "version")
		return err
	}}
	s.start()
	t.Cleanup(func() {
		s.p.Kill()
		os.RemoveAll("/etc/containerd/certs.d")
		os.Remove(containerdFile)
		os.RemoveAll("/run/containerd") // with its socket, which dockerd would use
	})
	return s
}

// dockerd starts Debian's at the usual places.
func dockerd(t *testing.T, h *lab.Host) *service {
	path, docker := needs(t, "dockerd", "package docker.io"), needs(t, "docker", "package docker.io")
	write(t, dockerFile, "{\n\t\"debug\": false\n}")
	dir := filepath.Join(h.Dir(), "docker")
	s := &service{t: t, host: h, root: dir, cmd: lab.Command{Name: "dockerd", Path: path, Args: []string{"--data-root", dir,
		"--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver", "vfs"}, PrivateMounts: true}, up: func() error {
		_, err := try(t, docker, "version")
		return err
	}}
	s.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("dockerd's log:\n%s", s.p.Tail(20))
		}
		_, _ = s.p.Stop(20 * time.Second) // it ends a containerd of its own
		os.Remove(dockerFile)
	})
	return s
}
