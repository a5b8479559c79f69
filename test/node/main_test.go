package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // what go-containerregistry takes
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/samara-p2p/samara/test/lab"
)

// inside tells a run of the tests that it is in its namespaces; it is where the
// daemons are.
const inside = "SAMARA_NODE_TEST"

var (
	binaries lab.Binaries
	outside  string // why the tests skip; "" inside
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests again, in namespaces.
func run(m *testing.M) int {
	if dir := os.Getenv(inside); dir != "" {
		binaries = lab.Binaries{Seeder: filepath.Join(dir, "seeder"), Peerd: filepath.Join(dir, "peerd")}
		if err := enter(); err != nil {
			outside = err.Error()
		}
		return m.Run()
	}
	if os.Geteuid() != 0 {
		outside = "needs root"
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "samara-node-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if binaries, err = lab.Build(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// A temporary directory of its own: in there other labs' processes cannot be
	// seen, and what they have would be swept.
	cmd.Env = append(os.Environ(), inside+"="+filepath.Dir(binaries.Peerd), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		outside = "no namespaces here: " + err.Error()
		return m.Run()
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// enter makes the namespaces fit to be a host.
func enter() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	policy := []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`)
	for _, dir := range []string{"/run", "/etc/containerd", "/etc/docker", "/etc/containers", "/etc/buildkit", "/var/lib/containerd", "/var/lib/docker", "/var/lib/containers", "/var/lib/samara", "/opt/containerd"} {
		if _, err := os.Stat(dir); err != nil {
			continue // what is not there is made where it is needed, and that would stay
		}
		if err := syscall.Mount("node", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := os.WriteFile("/etc/containers/policy.json", policy, 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}

// needs skips a test where a program is missing, and gives its path.
func needs(t *testing.T, name, from string) string {
	t.Helper()
	if outside != "" {
		t.Skip(outside)
	}
	if testing.Short() {
		t.Skip("runs programs")
	}
	for _, dir := range []string{"../../bin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/sbin"} {
		p, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p
		}
	}
	t.Skipf("%s is not installed: %s", name, from)
	return ""
}

// output runs a program that has to succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return out
}

// try runs a program, also at the end of a test.
func try(_ *testing.T, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// quiet is what go-containerregistry's registry logs to.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// upstream is docker.io, as far as the seeder knows: a registry with an image that
// is nowhere else.
type upstream struct {
	url     string
	corrupt func() // from now on it gives wrong bytes of blobs
	stop    func()
}

func startUpstream(t *testing.T, host *lab.Host) *upstream {
	t.Helper()
	wrong := make(chan struct{})
	reg := registry.New(registry.Logger(quiet()))
	l, err := host.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-wrong:
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				w = &scrambler{w}
			}
		default:
		}
		reg.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	for _, name := range []string{"app", "other"} {
		im, err := random.Image(300_000, 3)
		if err == nil {
			err = crane.Push(im, l.Addr().String()+"/library/"+name+":v1", crane.Insecure)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return &upstream{url: "http://" + l.Addr().String(), corrupt: func() { close(wrong) }, stop: func() { srv.Close() }}
}

// scrambler changes what is written.
type scrambler struct{ http.ResponseWriter }

func (s *scrambler) Write(p []byte) (int, error) {
	return s.ResponseWriter.Write(bytes.Map(func(r rune) rune { return r ^ 1 }, bytes.Repeat([]byte("x"), len(p))))
}

var _ io.Writer = (*scrambler)(nil)

// service is a daemon of the host that is started again at will.
type service struct {
	t    *testing.T
	host *lab.Host
	p    *lab.Process
	cmd  lab.Command
	root string // where it keeps what it has pulled
	up   func() error
}

func (s *service) start() {
	s.t.Helper()
	p, err := s.host.Start(s.t.Context(), s.cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.p = p
	s.wait()
}

func (s *service) restart() {
	s.t.Helper()
	if _, err := s.p.Stop(20 * time.Second); err != nil {
		s.t.Fatal(err)
	}
	if err := s.p.Restart(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	s.wait()
}

func (s *service) wait() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := lab.Eventually(ctx, func() error {
		if !s.p.Running() {
			cancel()
		}
		return s.up()
	}); err != nil {
		s.t.Fatalf("%s: %v\n%s", s.cmd.Name, err, s.p.Tail(30))
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
