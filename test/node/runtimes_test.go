package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/samara-p2p/samara/test/lab"
)

const containerdFile = "/etc/containerd/config.toml"

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
	ctr := needs(t, "ctr", "package containerd")
	dir := filepath.Join(h.Dir(), program)
	write(t, containerdFile, fmt.Sprintf(containerdConfig, format, filepath.Join(dir, "root"), filepath.Join(dir, "opt")))
	s := &service{t: t, host: h, cmd: lab.Command{Name: program, Path: path}, up: func() error {
		_, err := try(t, ctr, "version")
		return err
	}}
	s.start()
	t.Cleanup(func() { s.p.Kill(); os.RemoveAll("/etc/containerd/certs.d"); os.Remove(containerdFile) })
	return s
}
