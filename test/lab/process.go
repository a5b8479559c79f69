package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a program to run on a host.
type Command struct {
	Name  string   // names the log file; unique on its host
	Path  string   // the program
	Args  []string // without the program's own name
	Env   []string // added to the environment
	Dir   string   // working directory; default the host's
	Ready string   // URL that answers 2xx once the program is ready, asked from the host; "" = ready at once
	// ReadyWithin bounds the wait for Ready; default 20 s.
	ReadyWithin time.Duration
	// PrivateMounts gives the program a mount namespace of its own.
	PrivateMounts bool
	// UID runs the program as another user; 0 = as we are. Needs root.
	UID uint32
}

// Process is a running (or ended) Command.
type Process struct {
	host *Host
	cmd  Command
	log  string

	mu   sync.Mutex
	exec *exec.Cmd
	done chan struct{} // closed when the current run has been reaped
	past time.Duration // processor time of the runs before

	heir atomic.Int64 // the process that took over from exec, or awaited; 0 = none
}

// ErrExited: the program ended before it was ready.
var ErrExited = errors.New("program ended early")

// Start runs the command and waits until it is ready. On an error nothing keeps
// running; the error carries the end of the log.
func (h *Host) Start(ctx context.Context, c Command) (*Process, error) {
	if c.Dir == "" {
		c.Dir = h.dir
	}
	if c.ReadyWithin == 0 {
		c.ReadyWithin = 20 * time.Second
	}
	p := &Process{host: h, cmd: c, log: filepath.Join(h.dir, c.Name+".log")}
	h.lab.onClose(func() error { p.Kill(); return nil })
	if err := p.launch(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", c.Name, h.Name, err)
	}
	if err := p.waitReady(ctx); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start %s on %s: %w\n%s", c.Name, h.Name, err, p.Tail(20))
	}
	return p, nil
}

func (p *Process) launch() error {
	logFile, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(p.cmd.Path, p.cmd.Args...)
	cmd.Dir = p.cmd.Dir
	cmd.Env = append(os.Environ(), p.cmd.Env...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // a Ctrl-C is for us, not for them
		Pdeathsig: syscall.SIGKILL, // they do not outlive us
	}
	if p.cmd.PrivateMounts {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	if p.cmd.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.cmd.UID, Gid: p.cmd.UID}
	}
	if err := p.host.spawn.do(cmd.Start); err != nil {
		return err
	}
	done := make(chan struct{})
	p.mu.Lock()
	if p.exec != nil {
		p.past += p.ended().CPU
	}
	p.exec, p.done = cmd, done
	p.heir.Store(0)
	p.mu.Unlock()
	go func() {
		awaitEnd(cmd.Process.Pid)
		p.endHeirs()
		endGroup(cmd.Process.Pid)
		_ = cmd.Wait() // the state is read from cmd.ProcessState
		close(done)
	}()
	return nil
}

// awaitEnd waits for the end of a program. It is not reaped yet: until then
// nobody else's processes can have its number, or its group's.
func awaitEnd(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// endGroup ends what a program that has ended started and left behind, such as
// nginx its workers when it is killed.
func endGroup(pid int) {
	_ = unix.Kill(-pid, unix.SIGKILL) // ESRCH: it left nothing
}

// waitReady polls the Ready URL from inside the host.
func (p *Process) waitReady(ctx context.Context) error {
	if p.cmd.Ready == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cmd.ReadyWithin)
	defer cancel()
	client := p.host.HTTPClient()
	defer client.CloseIdleConnections()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("never asked")
	for {
		select {
		case <-p.Done():
			return fmt.Errorf("%w with status %d", ErrExited, p.ExitCode())
		case <-ctx.Done():
			return fmt.Errorf("not ready in %s: %s: %w", p.cmd.ReadyWithin, p.cmd.Ready, last)
		case <-tick.C:
		}
		if last = probe(ctx, client, p.cmd.Ready); last == nil {
			return nil
		}
	}
}

func probe(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// Done is closed when the current run has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Running reports whether the program has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// ExitCode is the status of an ended run; -1 if a signal ended it or it still runs.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exec.ProcessState.ExitCode()
}

// CPU is the processor time (user and system) of an ended run, in all threads.
func (p *Process) CPU() time.Duration {
	if p.Running() {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended().CPU
}

// PeakRSS is the largest resident set of an ended run in bytes.
func (p *Process) PeakRSS() int64 {
	if p.Running() {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended().PeakRSS
}

// ended is what the current run took, which has been reaped. The caller holds mu.
func (p *Process) ended() Usage {
	st := p.exec.ProcessState
	u := Usage{CPU: st.UserTime() + st.SystemTime()}
	if ru, ok := st.SysUsage().(*syscall.Rusage); ok {
		u.PeakRSS = ru.Maxrss * 1024
	}
	return u
}

// signal sends to the current run, if it has not been reaped.
func (p *Process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exec == nil {
		return
	}
	if pid := p.heir.Load(); pid > 0 && alive(pid) {
		_ = unix.Kill(int(pid), s) // ESRCH is fine
		if s != syscall.SIGKILL {
			return // the old process ends by itself
		}
	}
	_ = p.exec.Process.Signal(s) // os.ErrProcessDone is fine
}

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	<-done
}

// Stop sends SIGTERM and waits. A program still there after the grace is killed
// and reported. The exit status is that of the program.
func (p *Process) Stop(grace time.Duration) (status int, err error) {
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.Done():
		return p.ExitCode(), nil
	case <-timer.C:
		p.Kill()
		return -1, fmt.Errorf("stop %s on %s: still running %s after SIGTERM\n%s", p.cmd.Name, p.host.Name, grace, p.Tail(20))
	}
}

// Pause freezes the program (SIGSTOP): its connections stay open and silent.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Restart starts an ended program again with the same command and waits until it
// is ready.
func (p *Process) Restart(ctx context.Context) error {
	if p.Running() {
		return fmt.Errorf("restart %s on %s: still running", p.cmd.Name, p.host.Name)
	}
	if err := p.launch(); err != nil {
		return fmt.Errorf("restart %s on %s: %w", p.cmd.Name, p.host.Name, err)
	}
	if err := p.waitReady(ctx); err != nil {
		p.Kill()
		return fmt.Errorf("restart %s on %s: %w\n%s", p.cmd.Name, p.host.Name, err, p.Tail(20))
	}
	return nil
}

// Wait waits for the end and returns the exit status.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.Done():
		return p.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("wait for %s on %s: %w", p.cmd.Name, p.host.Name, ctx.Err())
	}
}

// Pid is the process id of the current run.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exec.Process.Pid
}

// Title is "program-host", for messages and file names.
func (p *Process) Title() string { return p.cmd.Name + "-" + p.host.Name }

// LogPath is the file that has all the program printed, over all its runs.
func (p *Process) LogPath() string { return p.log }

// Log is all that the program printed, over all its runs.
func (p *Process) Log() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// Tail is the last n lines of the log.
func (p *Process) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Run executes a short program on the host and returns its standard output. A
// failure carries what it printed on standard error.
func (h *Host) Run(ctx context.Context, path string, args ...string) ([]byte, error) {
	return h.runCommand(ctx, nil, path, args...)
}

func (h *Host) runCommand(ctx context.Context, env []string, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := h.spawn.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("run %s on %s: %w", filepath.Base(path), h.Name, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("run %s on %s: %w: %s", filepath.Base(path), h.Name, err, strings.TrimSpace(errOut.String()))
	}
	return out.Bytes(), nil
}
