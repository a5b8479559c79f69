package lab

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// namePrefix starts the name of everything that outlives a killed process. The
// pid of its maker follows.
const namePrefix = "samara-lab-"

// Sweep removes the namespaces, mounts and directories (in dir) of labs whose
// process is gone. It never touches those of a live one. Faults are left for the
// next sweep.
func Sweep(dir string) {
	names, _ := listNetns()
	for _, name := range names {
		if orphaned(name) {
			_ = deleteNetns(name)
		}
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !e.IsDir() || !orphaned(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || int(st.Uid) != os.Geteuid() {
			continue
		}
		unmountUnder(path)
		_ = os.RemoveAll(path)
	}
}

// TempDir makes a directory (in parent; "" = the system's) that other users can
// read. A signal that closes the labs removes it too, and so does Sweep should this
// process be killed before it does so itself.
func TempDir(parent, name string) (string, error) {
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-%s-", namePrefix, os.Getpid(), name))
	if err != nil {
		return "", err
	}
	live.Lock()
	live.dirs = append(live.dirs, dir)
	live.Unlock()
	return dir, os.Chmod(dir, 0o755)
}

// orphaned reports whether name was made by a lab whose process is gone.
func orphaned(name string) bool {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return false
	}
	pid, _, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(pid)
	return err == nil && n > 0 && errors.Is(syscall.Kill(n, 0), syscall.ESRCH)
}

func deleteNetns(name string) error {
	_, err := run("", "ip", "netns", "del", name)
	return err
}

// unmountUnder detaches every mount below dir, the deepest first.
func unmountUnder(dir string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

// MountTmpfs mounts a file system of exactly size bytes below the lab's
// directory, for tests that fill a disk. It goes with Close. Needs root.
func (l *Lab) MountTmpfs(name string, size int64) (string, error) {
	dir := l.path(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		return "", fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	l.onClose(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}

var interrupted atomic.Bool

// Interrupted reports that a signal is ending the process: its labs are closing
// under whoever still uses them, and what fails now means nothing.
func Interrupted() bool { return interrupted.Load() }

// live holds the labs to close on a signal, and what TempDir made.
var live struct {
	sync.Mutex
	labs map[*Lab]bool
	dirs []string
	once sync.Once
}

// register makes SIGINT and SIGTERM close the lab before the process ends. The
// handler is installed with the first lab and stays: it exits the process.
func register(l *Lab) {
	live.Lock()
	defer live.Unlock()
	if live.labs == nil {
		live.labs = make(map[*Lab]bool)
	}
	live.labs[l] = true
	live.once.Do(func() {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			sig := <-c
			interrupted.Store(true)
			live.Lock()
			labs := make([]*Lab, 0, len(live.labs))
			for l := range live.labs {
				labs = append(labs, l)
			}
			dirs := live.dirs
			live.Unlock()
			for _, l := range labs {
				_ = l.Close()
			}
			for _, d := range dirs {
				_ = os.RemoveAll(d)
			}
			os.Exit(128 + int(sig.(syscall.Signal)))
		}()
	})
}

func unregister(l *Lab) {
	live.Lock()
	defer live.Unlock()
	delete(live.labs, l)
}
