package obs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Listen opens a TCP socket. flag is what set addr ("--listen"); an error
// names it, what is wrong with addr and what to do.
func Listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &ListenError{Flag: flag, Addr: addr, Err: err}
	}
	return ln, nil
}

// ListenError is a listen address that cannot be used.
type ListenError struct {
	Flag, Addr string
	Err        error
}

func (e *ListenError) Error() string {
	return fmt.Sprintf("%s %s: %s; %s", e.Flag, e.Addr, e.what(), e.fix())
}

func (e *ListenError) Unwrap() error { return e.Err }

func (e *ListenError) what() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "the port is taken"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return "this host has no such address"
	case errors.Is(e.Err, os.ErrPermission):
		return "this user may not listen there"
	}
	var oe *net.OpError
	if errors.As(e.Err, &oe) {
		return oe.Err.Error()
	}
	return e.Err.Error()
}

func (e *ListenError) fix() string {
	_, port, err := net.SplitHostPort(e.Addr)
	switch {
	case err == nil && errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("`ss -ltnp 'sport = :%s'` shows who has it; stop that or give another port with %s", port, e.Flag)
	case errors.Is(e.Err, os.ErrPermission):
		return fmt.Sprintf("give a port above 1023 with %s, or the capability CAP_NET_BIND_SERVICE", e.Flag)
	}
	return fmt.Sprintf("give another with %s", e.Flag)
}
