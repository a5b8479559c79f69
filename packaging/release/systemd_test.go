package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a systemd of its own, on a copy of this machine's files.
type machine struct {
	t   *testing.T
	pid string
}

func boot(t *testing.T) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("it takes root (namespaces)")
	}
	for _, program := range []string{"unshare", "nsenter", "dpkg", "curl", "skopeo", "ip", "/lib/systemd/systemd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	var log bytes.Buffer
	cmd := exec.Command("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child",
		"packaging/release/testdata/boot.sh", t.TempDir())
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // takes its child along, and that everything in its namespace
		<-ended
	})
	m := &machine{t: t}
	m.until("boot", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Skipf("no systemd can be booted in namespaces here: %v: %s", err, log.Bytes())
		default:
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil || len(bytes.TrimSpace(children)) == 0 {
			return false
		}
		m.pid = strings.Fields(string(children))[0]
		comm, err := os.ReadFile("/proc/" + m.pid + "/comm")
		if err != nil || string(comm) != "systemd\n" {
			return false
		}
		state, _ := m.try("systemctl is-system-running")
		return strings.TrimSpace(state) == "running" || strings.TrimSpace(state) == "degraded"
	})
	return m
}

// try runs a shell command in the machine.
func (m *machine) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--target", m.pid, "--mount", "--pid", "--net", "--uts", "--ipc", "--root",
		"env", "-C", "/", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "sh", "-euc", script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) run(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		journal, _ := m.try("journalctl --no-pager -q -n 40 -u peerd -u seeder")
		m.t.Fatalf("%s: %v: %s\n%s", script, err, out, journal)
	}
	return strings.TrimSpace(out)
}

func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			journal, _ := m.try("journalctl --no-pager -q -n 40 -u peerd -u seeder")
			m.t.Fatalf("%s: not within a minute\n%s", what, journal)
		}
		<-tick.C
	}
}

// copyIn puts a file into the machine.
func (m *machine) copyIn(file, to string) {
	m.t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("/proc", m.pid, "root", to), content, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// everything lists the files that packages, daemons and their commands may have
// to do with.
func (m *machine) everything() string {
	return m.run("find /etc /lib/systemd /usr/bin /usr/share/man /usr/share/doc /usr/share/bash-completion /usr/share/zsh /usr/share/fish /var/lib /var/cache /run/systemd/system " +
		"! -path '/var/lib/dpkg/*' ! -path '/var/cache/man*' ! -path '/var/lib/systemd/*' ! -path '/etc/machine-id' | sort")
}

// checkInstalled installs both packages, pulls through them, upgrades in the
// middle of a pull, and takes them out.
func checkInstalled(t *testing.T, r release) {
	m := boot(t)
	for _, name := range r.daemons {
		m.copyIn(r.artefact(name, r.arches[0], "deb"), "/tmp/"+name+".deb")
		next := r
		next.version = "v1.2.3"
		if err := next.deb(t.Context(), name, r.arches[0]); err != nil {
			t.Fatal(err)
		}
		m.copyIn(next.artefact(name, r.arches[0], "deb"), "/tmp/"+name+"-next.deb")
	}
	image := r.artefact("peerd", "", "oci.tar")
	m.copyIn(image, "/tmp/image.tar")
	before := m.everything()

	m.run("dpkg -i /tmp/seeder.deb")
	m.run(`systemctl is-active seeder; cat >> /etc/samara/seeder.yaml <<'END'
local: ["*"]
local-name: ["images.test"]
allow: ["anyone pull+push **"]
END
systemctl reload seeder`)
	// A reload is over when the new process serves; until then the old one refuses pushes.
	const push = "skopeo copy --dest-tls-verify=false oci-archive:/tmp/image.tar docker://127.0.0.1:5000/test/image:v1"
	m.until("reload", func() bool { return m.run("systemctl show -p ActiveState --value seeder") == "active" })
	m.until("a push", func() bool { _, err := m.try(push); return err == nil })

	m.run("dpkg -i /tmp/peerd.deb")
	if out := m.run("systemctl show -p ConditionResult --value peerd"); out != "no" {
		t.Errorf("peerd starts without a key: ConditionResult=%s", out)
	}
	m.run(`cp /var/lib/samara/seeder/swarm.key /etc/samara/swarm.key; cat >> /etc/samara/peerd.yaml <<'END'
seeder: ["http://127.0.0.1:5000"]
p2p-listen: ["/ip4/0.0.0.0/tcp/4011"]
pieces-listen: ":4012"
admin-listen: "127.0.0.1:9096"
END
systemctl start peerd; curl -fsS --retry 50 --retry-delay 1 --retry-all-errors http://127.0.0.1:9096/readyz`)
	for _, name := range r.daemons {
		if user := m.run("ps -o user= -p $(systemctl show -p MainPID --value " + name + ")"); user == "root" {
			t.Errorf("%s runs as root", name)
		}
	}

	layer := m.run(`skopeo inspect --tls-verify=false docker://127.0.0.1:5000/test/image:v1 | grep -o '"sha256:[0-9a-f]*"' | tail -1 | tr -d '"'`)
	m.run("curl -fsS -o /dev/null 'http://127.0.0.1:5050/v2/test/image/manifests/v1?ns=images.test' -H 'Accept: application/vnd.oci.image.index.v1+json'")
	main := m.run("systemctl show -p MainPID --value peerd seeder")
	pull := make(chan error, 1)
	go func() {
		out, err := m.try("curl -fsS --limit-rate 4M -o /tmp/layer 'http://127.0.0.1:5050/v2/test/image/blobs/" + layer + "?ns=images.test'")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		pull <- err
	}()
	m.until("the pull has begun", func() bool {
		n, err := m.try("stat -c %s /tmp/layer")
		size, _ := strconv.Atoi(strings.TrimSpace(n))
		return err == nil && size > 0
	})
	m.run("dpkg -i /tmp/peerd-next.deb /tmp/seeder-next.deb")
	m.until("new processes", func() bool {
		now := strings.Fields(m.run("systemctl show -p MainPID --value peerd seeder"))
		old := strings.Fields(main)
		return len(now) == 2 && now[0] != old[0] && now[1] != old[1] && m.run("systemctl is-active peerd seeder") == "active\nactive"
	})
	if err := <-pull; err != nil {
		t.Errorf("a pull during the upgrade: %v", err)
	}
	content, err := os.ReadFile(filepath.Join("/proc", m.pid, "root/tmp/layer"))
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(content)); err != nil || got != layer {
		t.Errorf("it got %s, not %s (%v)", got, layer, err)
	}

	m.run("dpkg --purge samara-peerd samara-seeder")
	if after := m.everything(); after != before {
		t.Errorf("something is left, or gone:\n%s", lineDiff(before, after))
	}
	if out, err := m.try("pgrep -x 'peerd|seeder'"); err == nil {
		t.Errorf("still running: %s", out)
	}
}

// lineDiff lists the lines that only one of two sorted lists has.
func lineDiff(a, b string) string {
	var out strings.Builder
	for _, x := range []struct{ sign, has, lacks string }{{"-", a, b}, {"+", b, a}} {
		lacks := "\n" + x.lacks + "\n"
		for line := range strings.SplitSeq(x.has, "\n") {
			if !strings.Contains(lacks, "\n"+line+"\n") {
				out.WriteString(x.sign + line + "\n")
			}
		}
	}
	return out.String()
}
