package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

// securedSeeder runs the program with TLS, users and rules.
type securedSeeder struct {
	t     *testing.T
	addr  string
	dir   string
	certs string // directory with the authority, as skopeo and podman want it
	audit string
}

func startSecuredSeeder(t *testing.T) *securedSeeder {
	t.Helper()
	dir := t.TempDir()
	s := &securedSeeder{t: t, dir: dir, addr: fmt.Sprintf("127.0.0.1:%d", daemontest.Port(t)), certs: filepath.Join(dir, "certs"), audit: filepath.Join(dir, "audit.log")}
	writeSecrets(t, dir, "127.0.0.1")
	loopback := func() string { return fmt.Sprintf("127.0.0.1:%d", daemontest.Port(t)) }
	_, p2p, _ := net.SplitHostPort(loopback())
	cmd := exec.Command(binaries.Seeder, "serve", "--data", filepath.Join(dir, "data"), "--listen", s.addr, "--admin-listen", loopback(),
		"--pieces-listen", loopback(), "--p2p-listen", "/ip4/127.0.0.1/tcp/"+p2p, "--log-level", "warn", "--log-format", "console",
		"--local", "team", "--local", "public", "--htpasswd", filepath.Join(dir, "htpasswd"),
		"--allow", "anyone pull local/public/**", "--allow", "user:alice pull local/team/**", "--allow", "user:robot pull+push+delete local/**",
		"--tls-cert", filepath.Join(dir, "tls.crt"), "--tls-key", filepath.Join(dir, "tls.key"), "--audit-log", s.audit)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it has ended, or will
		if err := cmd.Wait(); err != nil {
			t.Errorf("seeder: %v", err)
		}
	})
	daemontest.Until(t, "listening", func() error {
		conn, err := net.DialTimeout("tcp", s.addr, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return s
}

// run runs a client with credentials of its own.
func (s *securedSeeder) run(user string, args ...string) (string, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "REGISTRY_AUTH_FILE="+filepath.Join(s.dir, "auth-"+user+".json"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *securedSeeder) must(user string, args ...string) string {
	s.t.Helper()
	out, err := s.run(user, args...)
	if err != nil {
		s.t.Fatalf("%s as %s: %v\n%s", strings.Join(args, " "), user, err, out)
	}
	return out
}

// refused wants a client to fail, and to say that this is for want of rights.
func (s *securedSeeder) refused(user string, args ...string) {
	s.t.Helper()
	out, err := s.run(user, args...)
	for _, word := range []string{"unauthorized", "denied", "authentication required", "invalid username/password"} {
		if err != nil && strings.Contains(strings.ToLower(out), word) {
			return
		}
	}
	s.t.Errorf("%s as %s: %v\n%s", strings.Join(args, " "), user, err, out)
}

// What skopeo and podman do against TLS, users and rules, and what the audit
// log says of it.
func TestClientsWithTLSAndLogins(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	for _, program := range []string{"skopeo", "podman"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	s := startSecuredSeeder(t)
	img := randomImage(t, types.OCIUncompressedLayer)
	oci := filepath.Join(s.dir, "oci")
	writeLayout(t, oci, img)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	src, team, public := "oci:"+oci+":v1", "docker://"+s.addr+"/team/app:v1", "docker://"+s.addr+"/public/app:v1"

	s.must("robot", "skopeo", "login", "--cert-dir", s.certs, "-u", "robot", "-p", "robot-secret", s.addr)
	s.must("alice", "podman", "login", "--cert-dir", s.certs, "-u", "alice", "-p", "alice-secret", s.addr)
	s.refused("nobody", "podman", "login", "--cert-dir", s.certs, "-u", "alice", "-p", "guess", s.addr)
	if out, err := s.run("nobody", "skopeo", "inspect", public); err == nil || !strings.Contains(out, "x509") {
		t.Errorf("an unknown authority is fine: %v %s", err, out)
	}
	s.must("robot", "skopeo", "copy", "--dest-cert-dir", s.certs, src, team)
	s.must("robot", "skopeo", "copy", "--src-cert-dir", s.certs, "--dest-cert-dir", s.certs, team, public) // mounts
	for user, dst := range map[string]string{"alice": team, "nobody": public} {
		if out := s.must(user, "skopeo", "inspect", "--cert-dir", s.certs, dst); !strings.Contains(out, digest.String()) {
			t.Errorf("%s sees %s", user, out)
		}
		s.must(user, "skopeo", "copy", "--src-cert-dir", s.certs, dst, "dir:"+filepath.Join(s.dir, "copy-"+user))
		s.refused(user, "skopeo", "copy", "--dest-cert-dir", s.certs, src, dst+"-new")
		s.refused(user, "skopeo", "delete", "--cert-dir", s.certs, dst)
	}
	s.refused("nobody", "skopeo", "inspect", "--cert-dir", s.certs, team)
	s.refused("nobody", "skopeo", "inspect", "--cert-dir", s.certs, strings.Replace(team, "app", "none", 1))
	if out := s.must("alice", "skopeo", "list-tags", "--cert-dir", s.certs, strings.TrimSuffix(team, ":v1")); !strings.Contains(out, `"v1"`) {
		t.Errorf("tags: %s", out)
	}
	s.must("robot", "skopeo", "delete", "--cert-dir", s.certs, team)

	out := s.must("operator", binaries.Seeder, "audit", "verify", "--audit-log", s.audit)
	if !strings.HasPrefix(out, "lines 1 to ") {
		t.Errorf("audit verify: %s", out)
	}
	var log []byte
	daemontest.Until(t, "in the audit log", func() (err error) { // a line comes when its request has been answered
		log, err = os.ReadFile(s.audit)
		for _, want := range []string{
			`"user":"robot","auth":"token","client":"127.0.0.1","action":"push","method":"PUT","repository":"local/team/app","reference":"v1","digest":"` + digest.String() + `","outcome":"allowed","status":201`,
			`"user":"alice","auth":"token","client":"127.0.0.1","action":"push","method":"PUT","repository":"local/team/app","reference":"v1-new","outcome":"denied","status":401`,
			`"user":"alice","auth":"anonymous","client":"127.0.0.1","action":"login"`,
			`"user":"robot","auth":"token","client":"127.0.0.1","action":"delete"`,
		} {
			if err == nil && !strings.Contains(string(log), want) {
				err = fmt.Errorf("no %s in\n%s", want, log)
			}
		}
		return err
	})
	if strings.Contains(string(log), "-secret") {
		t.Error("a password is in the audit log")
	}
	if err := os.WriteFile(s.audit+".forged", []byte(strings.Replace(string(log), `"user":"robot"`, `"user":"alice"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if out, err := s.run("operator", binaries.Seeder, "audit", "verify", s.audit+".forged"); !errors.As(err, &exit) || !strings.Contains(out, "the line was changed") {
		t.Errorf("%v %s", err, out)
	}
}
