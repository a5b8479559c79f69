package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/samara-p2p/samara/internal/obs"
)

// sockets are those that this process listens on, or may. They are open until
// the process ends, whatever happens to its turns.
type sockets struct {
	list    []*socket
	systemd []*net.TCPListener // passed by the service manager, not yet asked for
}

// socket is one that a setting asked for.
type socket struct {
	socketTag
	ln *net.TCPListener
}

// takeSystemd takes what the service manager passes (LISTEN_FDS).
func (s *sockets) takeSystemd() error {
	list, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("sockets of the service manager: %w", err)
	}
	for i, ln := range list {
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("socket %d of the service manager is no TCP socket; remove it from the .socket unit (ListenStream=HOST:PORT is one)", i)
		}
		s.systemd = append(s.systemd, tcp)
	}
	return nil
}

// takeOffer takes what an earlier process passes.
func (s *sockets) takeOffer(m *message) error {
	if len(m.files) != len(m.Sockets) {
		m.close()
		return fmt.Errorf("%d sockets are offered with %d descriptors", len(m.Sockets), len(m.files))
	}
	var errs []error
	for i, f := range m.files {
		ln, err := net.FileListener(f)
		_ = f.Close() // the listener has its own
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", m.Sockets[i].Flag, m.Sockets[i].Addr, err))
			continue
		}
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			errs = append(errs, errors.Join(fmt.Errorf("%s %s is no TCP socket", m.Sockets[i].Flag, m.Sockets[i].Addr), ln.Close()))
			continue
		}
		s.list = append(s.list, &socket{m.Sockets[i], tcp})
	}
	return errors.Join(errs...)
}

// offer passes all sockets to a new process.
func (s *sockets) offer(l *link) error {
	m := message{Kind: msgOffer, Version: version}
	var fds []int
	for _, k := range s.list {
		rc, err := k.ln.SyscallConn()
		if err == nil {
			// The number stays good: the listener is closed by this goroutine only.
			err = rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		if err != nil {
			return err
		}
		m.Sockets = append(m.Sockets, k.socketTag)
	}
	return l.send(m, fds...)
}

// bind is the socket that a setting asks for: one that there is, else a new one.
// Errors: *obs.ListenError.
func (s *sockets) bind(ctx context.Context, flag, addr string) (*net.TCPListener, error) {
	for _, k := range s.list {
		if k.Flag == flag && k.Addr == addr {
			return k.ln, nil
		}
	}
	ln := s.fromSystemd(addr)
	if ln == nil {
		l, err := obs.Listen(ctx, flag, addr)
		if err != nil {
			return nil, err
		}
		ln = l.(*net.TCPListener)
	}
	s.list = append(s.list, &socket{socketTag{flag, addr}, ln})
	return ln, nil
}

func (s *sockets) fromSystemd(addr string) *net.TCPListener {
	want, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil
	}
	for i, ln := range s.systemd {
		have := ln.Addr().(*net.TCPAddr)
		if have.Port == want.Port && (have.IP.Equal(want.IP) || have.IP.IsUnspecified() && (want.IP == nil || want.IP.IsUnspecified())) {
			s.systemd = append(s.systemd[:i:i], s.systemd[i+1:]...)
			return ln
		}
	}
	return nil
}

// settle gives up what an earlier process passed and no setting asks for. What
// the service manager passes and nobody asks for is an error: clients would
// connect to it and wait for ever.
func (s *sockets) settle(used map[socketTag]bool) error {
	kept := s.list[:0]
	for _, k := range s.list {
		if used[k.socketTag] {
			kept = append(kept, k)
		} else {
			_ = k.ln.Close()
		}
	}
	s.list = kept
	if len(s.systemd) == 0 {
		return nil
	}
	var addrs, flags []string
	for _, ln := range s.systemd {
		addrs = append(addrs, ln.Addr().String())
	}
	for _, k := range s.list {
		flags = append(flags, k.Flag+" "+k.Addr)
	}
	return fmt.Errorf("the service manager passes a socket for %s, and no setting names that address (%s); make the .socket unit and the settings agree",
		strings.Join(addrs, ", "), strings.Join(flags, ", "))
}

// duplicate is a listener on the same socket that can be closed by itself.
func duplicate(ln *net.TCPListener) (net.Listener, error) {
	f, err := ln.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

func (s *sockets) close() {
	for _, k := range s.list {
		_ = k.ln.Close()
	}
	for _, ln := range s.systemd {
		_ = ln.Close()
	}
	s.list, s.systemd = nil, nil
}

// inherited is the end of a link that the process before this one left us, by
// the environment, and the number of that process; nil where there is none.
func inherited() (*link, int, error) {
	text := os.Getenv(linkVariable)
	if text == "" {
		return nil, 0, nil
	}
	if err := os.Unsetenv(linkVariable); err != nil {
		return nil, 0, err
	}
	pid, err := strconv.Atoi(text)
	var l *link
	if err == nil {
		l, err = openLink(os.NewFile(linkDescriptor, linkVariable))
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s=%s is set, and descriptor %d is none of a hand-over: %w; unset it", linkVariable, text, linkDescriptor, err)
	}
	return l, pid, nil
}

// How a new process finds its end of the link.
const (
	linkVariable   = "SAMARA_HANDOVER" // the old process's number
	linkDescriptor = 3                 // the first of exec.Cmd.ExtraFiles
)

// buried waits until a parent that is dying is dead. Its end of the link may be
// closed before its locks are free; who has another parent has one without files.
func buried(ctx context.Context, parent int) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for os.Getppid() == parent {
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("hand-over: process %d says nothing, and is still there: %w", parent, context.Cause(ctx))
		}
	}
	return nil
}
