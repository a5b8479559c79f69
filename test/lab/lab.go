package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Rate is a link's speed in bits per second. Zero means as fast as the machine.
type Rate int64

// Mbit is 10^6 bits per second.
const Mbit Rate = 1e6

// DefaultMTU is Ethernet's.
const DefaultMTU = 1500

// PayloadShare is how much of what a shaped link carries is payload: tbf counts
// Ethernet frames, 1,514 bytes at an MTU of 1500, of which IPv4 and TCP with
// timestamps leave 1,448. It is what one host alone reaches over plain HTTP.
func PayloadShare(mtu int) float64 { return float64(mtu-52) / float64(mtu+14) }

// Options says what kind of lab to make. The zero value is namespaces with links
// of 100 Mbit/s.
type Options struct {
	Rate     Rate   // of links, each way; 0 = 100 Mbit/s, negative = unshaped
	Loopback bool   // no namespaces: every host is a loopback address
	MTU      int    // of links; 0 = DefaultMTU
	IPv6     bool   // hosts also get fd77::N/64
	Dir      string // parent of the lab's directory; default the system's
	Keep     bool   // leave the directory (logs, data) behind on Close
	Logf     func(format string, args ...any)
}

// Lab is a set of hosts on one bridge. Make it with New, end it with Close.
type Lab struct {
	opts Options
	id   string // "samara-lab-<pid>-<n>": the prefix of every name we make
	seq  int
	dir  string

	links linkReader

	mu     sync.Mutex
	hosts  []*Host
	zones  []*Zone
	undo   []func() error // run last to first by Close
	closed bool
}

var labSeq atomic.Int64

// Missing says why this machine cannot give hosts with links of their own, or
// nil. The text names what to install or to do.
func Missing() error { return netnsMissing() }

// New makes an empty lab and sweeps what crashed former runs left behind.
func New(o Options) (*Lab, error) {
	if o.Rate == 0 {
		o.Rate = 100 * Mbit
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if !o.Loopback {
		if err := netnsMissing(); err != nil {
			return nil, fmt.Errorf("new lab: %w", err)
		}
	}
	Sweep(o.Dir)
	n := int(labSeq.Add(1))
	l := &Lab{opts: o, seq: n, id: fmt.Sprintf("%s%d-%d", namePrefix, os.Getpid(), n)}
	dir, err := os.MkdirTemp(o.Dir, l.id+"-")
	if err != nil {
		return nil, fmt.Errorf("new lab: %w", err)
	}
	// Programs that run as another user must get through.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("new lab: %w", err)
	}
	l.dir = dir
	l.onClose(func() error {
		if o.Keep {
			return nil
		}
		return os.RemoveAll(dir)
	})
	if !o.Loopback {
		if err := l.makeSwitch(); err != nil {
			l.Close()
			return nil, fmt.Errorf("new lab: %w", err)
		}
	}
	register(l)
	return l, nil
}

// ForTest makes a lab that ends with the test. It skips the test where the machine
// cannot give namespaces. The directory is kept when the test fails and
// SAMARA_KEEP is set.
func ForTest(t testing.TB, o Options) *Lab {
	t.Helper()
	if !o.Loopback {
		if err := Missing(); err != nil {
			t.Skipf("no lab: %v", err)
		}
	}
	if o.Logf == nil {
		o.Logf = t.Logf
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("SAMARA_KEEP") != "" {
			l.opts.Keep = true
			t.Logf("lab kept in %s", l.dir)
		}
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// switchName is the namespace that holds the bridge.
func (l *Lab) switchName() string { return l.id + "-switch" }

func (l *Lab) makeSwitch() error {
	name := l.switchName()
	if _, err := run("", "ip", "netns", "add", name); err != nil {
		return err
	}
	l.onClose(func() error { return deleteNetns(name) })
	if err := l.links.open(name); err != nil {
		return err
	}
	l.onClose(l.links.close)
	if err := noBridgeFilter(name); err != nil {
		return err
	}
	return ipBatch(name, append(bridgeUp(firstBridge), "link set lo up")...)
}

// Dir is the lab's own directory; it goes with Close.
func (l *Lab) Dir() string { return l.dir }

// Loopback reports a lab without namespaces, rates and link counters.
func (l *Lab) Loopback() bool { return l.opts.Loopback }

// Rate is the default rate of links.
func (l *Lab) Rate() Rate { return l.opts.Rate }

// Hosts returns the hosts in the order they were made.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Host(nil), l.hosts...)
}

// onClose remembers how to undo something. A lab that a signal has just closed
// undoes it at once.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.undo = append(l.undo, f)
	}
	l.mu.Unlock()
	if closed {
		_ = f()
	}
}

// Close kills the lab's processes and removes all that the lab made. It is safe
// to call more than once.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	undo := l.undo
	l.mu.Unlock()
	unregister(l)
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		if err := undo[i](); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// path joins names to the lab's directory.
func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}
