package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 keeps named namespaces.
const netnsDir = "/run/netns"

// inNetns runs f on an operating-system thread that is inside the named network
// namespace. A socket belongs to the namespace of the thread that made it, for
// good, so f may hand sockets out. f must not start goroutines that make sockets.
func inNetns(name string, f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			errc <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer unix.Close(home)
		if err := enterNetns(name); err != nil {
			runtime.UnlockOSThread()
			errc <- err
			return
		}
		ferr := f()
		// A thread that cannot go home must not be used again: a goroutine that
		// ends while locked takes its thread with it.
		if err := unix.Setns(home, unix.CLONE_NEWNET); err == nil {
			runtime.UnlockOSThread()
		}
		errc <- ferr
	}()
	return <-errc
}

// enterNetns moves the calling thread, which the caller has locked.
func enterNetns(name string) error {
	path := filepath.Join(netnsDir, name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}

// spawner is a thread that stays in one namespace to start processes from it:
// a child inherits the namespace of the thread that forked it, so its pid is
// exact, and its parent-death signal fires when this very thread ends, that is
// when the whole test process dies, however it dies.
type spawner struct {
	jobs chan func()
	done chan struct{}
}

// newSpawner starts the thread. An empty name stays in the caller's namespace.
func newSpawner(name string) (*spawner, error) {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if name != "" {
			if err := enterNetns(name); err != nil {
				ready <- err
				return
			}
		}
		ready <- nil
		for job := range s.jobs {
			job()
		}
	}()
	if err := <-ready; err != nil {
		<-s.done
		return nil, err
	}
	return s, nil
}

// do runs f on the thread and waits for it.
func (s *spawner) do(f func() error) error {
	errc := make(chan error, 1)
	s.jobs <- func() { errc <- f() }
	return <-errc
}

// close ends the thread. Processes started by it get SIGKILL.
func (s *spawner) close() {
	close(s.jobs)
	<-s.done
}

// dialIn dials an IP address from inside a namespace.
func dialIn(ctx context.Context, netns, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		// A name would start a resolver goroutine outside the namespace.
		return nil, fmt.Errorf("dial %s from %s: only IP addresses can be dialled from a lab host", addr, netns)
	}
	var c net.Conn
	err = inNetns(netns, func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// listenIn listens inside a namespace.
func listenIn(netns, network, addr string) (net.Listener, error) {
	var l net.Listener
	err := inNetns(netns, func() error {
		var err error
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// bridgeFilters say, in the namespace of whoever reads them, whether bridges show
// frames to the packet filter. They are there once br_netfilter is loaded, which
// Docker does.
var bridgeFilters = []string{"/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
	"/proc/sys/net/bridge/bridge-nf-call-arptables"}

// noBridgeFilter has the bridges of a namespace forward as a switch does: asking
// a packet filter without rules took a tenth of the processor time of 32 hosts.
func noBridgeFilter(name string) error {
	return inNetns(name, func() error {
		for _, f := range bridgeFilters {
			if err := os.WriteFile(f, []byte("0"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("bridge without packet filter: %w", err)
			}
		}
		return nil
	})
}

// netnsMissing says what this machine lacks for namespaces; nil means nothing. It
// finds out by making one with a shaped link.
var netnsMissing = sync.OnceValue(func() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := lookPath(tool); err != nil {
			return fmt.Errorf("network namespaces need %q (Debian package iproute2): %w", tool, err)
		}
	}
	name := fmt.Sprintf("%s%d-probe", namePrefix, os.Getpid())
	if _, err := run("", "ip", "netns", "add", name); err != nil {
		return fmt.Errorf("network namespaces cannot be made here: %w", err)
	}
	defer func() { _ = deleteNetns(name) }()
	if err := ipBatch(name, "link add br0 type bridge", "link add port0 type veth peer name eth0"); err != nil {
		return fmt.Errorf("bridges and veth links cannot be made here: %w", err)
	}
	if err := shape(name, "eth0", 100*Mbit); err != nil {
		return fmt.Errorf("links cannot be shaped here (kernel module sch_tbf): %w", err)
	}
	return nil
})
