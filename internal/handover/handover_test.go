package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 90 * time.Second // a process that starts on a busy machine

// unit runs processes as a service manager does: it is told by them which one is
// the main one.
type unit struct {
	t     *testing.T
	dir   string
	addr  string
	env   []string
	extra []*os.File

	mu   sync.Mutex
	seen []string // what the processes told
}

func newUnit(t *testing.T) *unit {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &unit{t: t, dir: t.TempDir(), addr: ln.Addr().String()}
	ln.Close()
	socket := filepath.Join(u.dir, "notify")
	nc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := nc.Read(buf)
			if err != nil {
				return
			}
			u.told(string(buf[:n]))
		}
	}()
	u.env = []string{"HANDOVER_TEST_DIR=" + u.dir, "HANDOVER_TEST_LISTEN=" + u.addr, "NOTIFY_SOCKET=" + socket}
	t.Cleanup(func() {
		nc.Close()
		<-done
	})
	return u
}

func (u *unit) told(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, text)
}

func (u *unit) notes() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

// start runs a first process until the end of the test, with all that it starts.
func (u *unit) start() *exec.Cmd {
	u.t.Helper()
	logName := filepath.Join(u.dir, fmt.Sprintf("log%d", time.Now().UnixNano()))
	log, err := os.Create(logName)
	if err != nil {
		u.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), u.env...)
	cmd.Stderr = log
	cmd.ExtraFiles = u.extra
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		// It is not waited for before, so the group's number is still its own.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if u.t.Failed() {
			text, _ := os.ReadFile(logName)
			u.t.Logf("the daemons' log:\n%s", text)
		}
	})
	u.until("serving", func() error {
		_, err := u.pid()
		return err
	})
	return cmd
}

func (u *unit) until(what string, f func() error) {
	u.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			u.t.Fatalf("not %s: %v", what, err)
		}
	}
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// pid is the process that takes new connections.
func (u *unit) pid() (int, error) {
	resp, err := client.Get("http://" + u.addr + "/pid")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

// other waits until new connections go to another process than one.
func (u *unit) other(than int) int {
	u.t.Helper()
	var pid int
	u.until("taken over", func() (err error) {
		if pid, err = u.pid(); err == nil && pid == than {
			err = errors.New("the old process answers")
		}
		return err
	})
	return pid
}

func (u *unit) write(name string) {
	u.t.Helper()
	if err := os.WriteFile(filepath.Join(u.dir, name), nil, 0o600); err != nil {
		u.t.Fatal(err)
	}
}

func (u *unit) gone(name string) error {
	if _, err := os.Stat(filepath.Join(u.dir, name)); err == nil {
		return errors.New(name + " is still there")
	}
	return nil
}

// dead tells whether the process that a die- file was for has ended: the file has
// its number then.
func (u *unit) dead(name string) error {
	found, _ := filepath.Glob(filepath.Join(u.dir, name+".*")) // the pattern is one
	if len(found) != 1 {
		return errors.New("nobody has come to " + name)
	}
	pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(found[0]), "."))
	if err != nil {
		return err
	}
	return ended(pid)
}

// ended tells whether a process has: a zombie has, too.
func ended(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	if _, rest, _ := strings.Cut(string(text), ") "); strings.HasPrefix(rest, "Z") {
		return nil
	}
	return fmt.Errorf("process %d is there", pid)
}

// download is a body on its way.
type download struct {
	resp *http.Response
	off  int64
}

func (u *unit) get(method, path string, header ...string) (*http.Response, error) {
	req, err := http.NewRequest(method, "http://"+u.addr+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", secret)
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	return client.Do(req)
}

func (u *unit) download(off int64, header ...string) *download {
	u.t.Helper()
	resp, err := u.get("GET", "/body", header...)
	if err != nil {
		u.t.Fatal(err)
	}
	return &download{resp, off}
}

// read takes n bytes more, and checks them.
func (d *download) read(n int64) error {
	p := make([]byte, n)
	m, err := io.ReadFull(d.resp.Body, p)
	if text := wrong(p[:m], d.off); text != "" {
		return errors.New(text)
	}
	d.off += int64(m)
	return err
}

// rest takes all that is still to come up to a byte.
func (d *download) rest(to int64) error {
	defer d.resp.Body.Close()
	if err := d.read(to - d.off); err != nil {
		return err
	}
	if n, err := d.resp.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("%d bytes too many, %w", n, err)
	}
	return nil
}

func hup(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// contract 15 and 29: a new process takes over, and what is under way goes on as if
// nothing had been: bodies, ranges of them, requests without an answer,
// uploads, connections that are kept.
func TestHandOver(t *testing.T) {
	u := newUnit(t)
	old := u.start().Process.Pid
	whole, part := u.download(0), u.download(1000, "Range: bytes=1000-")
	for _, d := range []*download{whole, part} {
		if err := d.read(100_000); err != nil {
			t.Fatal(err)
		}
	}
	var kept http.Client
	defer kept.CloseIdleConnections()
	ask := func() string {
		resp, err := kept.Get("http://" + u.addr + "/pid")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return string(text)
	}
	ask()
	slow := make(chan string, 1)
	go func() {
		resp, err := u.get("GET", "/slow", "Only-Pid: "+strconv.Itoa(old))
		if err != nil {
			slow <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		slow <- resp.Status + " " + string(text)
	}()
	up, upw := io.Pipe()
	uploaded := make(chan string, 1)
	go func() {
		req, _ := http.NewRequest("PUT", "http://"+u.addr+"/upload", up)
		req.Header.Set("Authorization", secret)
		resp, err := client.Do(req)
		if err != nil {
			uploaded <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		uploaded <- resp.Header.Get("Server-Pid") + " " + string(text)
	}()
	if _, err := upw.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	hup(t, old)
	u.until("handing over", func() error {
		if !contains(u.notes(), "RELOADING=1\nMONOTONIC_USEC=") {
			return errors.New("nothing was said")
		}
		return nil
	})
	if _, err := upw.Write(make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	upw.Close()
	pid := u.other(old)
	if got, want := <-uploaded, fmt.Sprint(old, " 1500 <nil>"); got != want {
		t.Errorf("upload: %s, want %s", got, want)
	}
	if got := ask(); got != strconv.Itoa(pid) {
		t.Errorf("a kept connection is answered by %s, not by %d", got, pid)
	}
	if got := <-slow; !strings.HasPrefix(got, "200 OK 127.0.0.1:") {
		t.Errorf("a request without an answer: %s; want the client's address", got)
	}
	if err := whole.rest(bodySize); err != nil {
		t.Errorf("after %d bytes: %v", whole.off, err)
	}
	if err := part.rest(bodySize); err != nil {
		t.Errorf("range, after %d bytes: %v", part.off, err)
	}
	u.until("ended", func() error { return ended(old) })
	u.until("told to the service manager", func() error {
		if want := fmt.Sprintf("MAINPID=%d\nREADY=1", pid); !contains(u.notes(), want) {
			return fmt.Errorf("it heard %q, not %q", u.notes(), want)
		}
		return nil
	})
	// Once more, by the one that took over.
	d := u.download(0)
	hup(t, pid)
	u.other(pid)
	if err := d.rest(bodySize); err != nil {
		t.Errorf("the second time, after %d bytes: %v", d.off, err)
	}
}

// A new process that is good for nothing changes nothing.
func TestNewProcessFails(t *testing.T) {
	for _, name := range []string{"fail-early", "fail-late"} {
		t.Run(name, func(t *testing.T) {
			u := newUnit(t)
			old := u.start().Process.Pid
			d := u.download(0)
			u.write(name)
			hup(t, old)
			u.until("refused", func() error {
				if !contains(u.notes(), "STATUS=no hand-over: the new process") {
					return errors.New("nothing was said")
				}
				return nil
			})
			if err := u.gone(name); err != nil {
				t.Error(err)
			}
			if err := d.rest(bodySize); err != nil {
				t.Errorf("after %d bytes: %v", d.off, err)
			}
			if pid, err := u.pid(); pid != old {
				t.Errorf("process %d answers, %v", pid, err)
			}
			hup(t, old)
			u.other(old)
		})
	}
}

// Whichever of the two dies, wherever it is: somebody serves, and no body is
// lost that the dead one did not hold.
func TestKilled(t *testing.T) {
	for _, at := range []string{
		"new-ready", "new-released", "new-listening",
		"old-offer", "old-ready", "old-freezing", "old-release", "old-released", "old-relaying",
	} {
		t.Run(at, func(t *testing.T) {
			u := newUnit(t)
			old := u.start().Process.Pid
			d := u.download(0)
			if err := d.read(1000); err != nil {
				t.Fatal(err)
			}
			u.write("die-" + at)
			hup(t, old)
			u.until("dead", func() error { return u.dead("die-" + at) })
			if strings.HasPrefix(at, "new-") {
				if err := d.rest(bodySize); err != nil {
					t.Errorf("after %d bytes: %v", d.off, err)
				}
				if pid, err := u.pid(); pid != old {
					t.Errorf("process %d answers, %v", pid, err)
				}
				return
			}
			err := d.rest(bodySize)
			u.other(old)
			if err == nil {
				return // it had come before
			}
			again := u.download(d.off, fmt.Sprintf("Range: bytes=%d-", d.off))
			if err := again.rest(bodySize); err != nil {
				t.Errorf("the rest from %d, after %d bytes: %v", d.off, again.off, err)
			}
		})
	}
}

// A process that dies after it took over is started again, by whoever watches;
// the directory is free at once.
func TestKilledAfterwards(t *testing.T) {
	u := newUnit(t)
	old := u.start().Process.Pid
	u.write("die-new-serving")
	hup(t, old)
	u.until("dead", func() error { return u.dead("die-new-serving") })
	u.until("ended", func() error { return ended(old) })
	u.start()
}

// Sockets of a service manager are used, and are there for the next process even
// where there is a time without any.
func TestServiceManagersSockets(t *testing.T) {
	u := newUnit(t)
	ln, err := net.Listen("tcp", u.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	u.extra = []*os.File{f}
	u.env = append(u.env, "LISTEN_FDS=1")
	first := u.start()
	old := first.Process.Pid
	hup(t, old)
	pid := u.other(old)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.until("dead", func() error { return errors.Join(ended(pid), ended(old)) })
	got := make(chan error, 1)
	go func() { // waits in the socket's queue
		_, err := u.pid()
		got <- err
	}()
	u.start()
	if err := <-got; err != nil {
		t.Errorf("a client that came between two processes: %v", err)
	}
}

// A socket that no setting asks for would leave clients waiting.
func TestUnknownSocket(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var s sockets
	s.systemd = append(s.systemd, other.(*net.TCPListener))
	defer s.close()
	if _, err := s.bind(t.Context(), "--listen", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	err = s.settle(map[socketTag]bool{{"--listen", "127.0.0.1:0"}: true})
	if err == nil || !strings.Contains(err.Error(), other.Addr().String()) || !strings.Contains(err.Error(), "--listen 127.0.0.1:0") {
		t.Errorf("%v", err)
	}
}

// A process of another version is not taken over from.
func TestOtherVersion(t *testing.T) {
	ours, theirs, err := newLink()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	p := &Process{}
	if p.link, err = openLink(theirs); err != nil {
		t.Fatal(err)
	}
	defer p.link.close()
	if err := ours.send(message{Kind: msgOffer, Version: version + 1}); err != nil {
		t.Fatal(err)
	}
	if err := p.takeOffer(); err == nil || !strings.Contains(err.Error(), "speaks version 2") {
		t.Errorf("%v", err)
	}
}

// What is no message ends the talk, and a silent process is not waited for.
func TestLink(t *testing.T) {
	for name, raw := range map[string]string{
		"no JSON": "hello\n", "no descriptors": `{"kind":"conn","files":1}` + "\n", "no end": strings.Repeat("x", 2*maxMessage), "negative": `{"files":-1}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := newLink()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.close()
			l, err := openLink(theirs)
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			go func() { _, _ = ours.c.Write([]byte(raw)) }()
			if m, err := l.receive(t.Context()); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	ours, theirs, err := newLink()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	defer ours.close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("too late"))
	defer cancel()
	if _, err := ours.receive(ctx); err == nil || err.Error() != "too late" {
		t.Errorf("%v", err)
	}
}
