package handover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Headers of relayed requests: what the new process cannot see of the client.
// They count on connections of the link only.
const (
	headerPart   = "Samara-Handover-Part"   // partWhole or partRest
	headerClient = "Samara-Handover-Client" // its address
	headerTLS    = "Samara-Handover-Tls"    // there is TLS; the certificate that it proved, if any
)

const (
	partWhole = "whole"
	partRest  = "rest" // the client may have it: that was decided before
)

// relay has requests answered by the process at the other end of a link.
type relay struct {
	transport *http.Transport
}

func newRelay(l *link) *relay {
	return &relay{transport: &http.Transport{
		DialContext:           func(context.Context, string, string) (net.Conn, error) { return dial(l) },
		DisableCompression:    true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: time.Minute, // longer than any decision takes
	}}
}

// dial makes a pair of sockets and passes one to the other process.
func dial(l *link) (net.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close() // FileConn has its own
	defer theirs.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	if err := l.send(message{Kind: msgConn}, int(theirs.Fd())); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("handover: the new process is gone: %w", err)
	}
	return c, nil
}

// stage is the process at the other end.
func (x *relay) stage() *stage {
	s := newStage(x.handler(partWhole), x.handler(partRest))
	s.relay = true
	return s
}

var relayBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

func (x *relay) handler(part string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := x.transport.RoundTrip(wrap(r, part))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			if name != "Connection" && name != "Keep-Alive" {
				w.Header()[name] = values
			}
		}
		w.WriteHeader(resp.StatusCode)
		bp := relayBuffers.Get().(*[]byte)
		defer relayBuffers.Put(bp)
		// Only Write: each chunk has its own deadline, and is sent at once.
		if _, err := io.CopyBuffer(flushing{w}, resp.Body, *bp); err != nil {
			panic(http.ErrAbortHandler)
		}
	})
}

// flushing sends what is written to it at once.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

func (x *relay) close() { x.transport.CloseIdleConnections() }

// wrap makes a request for the other process of a client's.
func wrap(r *http.Request, part string) *http.Request {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", "handover"
	out.Host = r.Host
	for _, name := range []string{"Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Expect"} {
		out.Header.Del(name)
	}
	out.Header.Set(headerPart, part)
	out.Header.Set(headerClient, r.RemoteAddr)
	out.Header.Del(headerTLS)
	if r.TLS != nil {
		proved := ""
		if len(r.TLS.VerifiedChains) > 0 {
			proved = base64.StdEncoding.EncodeToString(r.TLS.VerifiedChains[0][0].Raw)
		}
		out.Header.Set(headerTLS, proved)
	}
	return out
}

// unwrap makes the client's request of a relayed one.
func unwrap(r *http.Request) (*http.Request, bool, error) {
	part := r.Header.Get(headerPart)
	if part != partWhole && part != partRest {
		return nil, false, fmt.Errorf("%s: %q", headerPart, part)
	}
	in := r.Clone(r.Context())
	in.RemoteAddr = r.Header.Get(headerClient)
	if proved, ok := r.Header[headerTLS]; ok {
		in.TLS = &tls.ConnectionState{HandshakeComplete: true}
		if proved[0] != "" {
			raw, err := base64.StdEncoding.DecodeString(proved[0])
			if err != nil {
				return nil, false, fmt.Errorf("%s: %w", headerTLS, err)
			}
			cert, err := x509.ParseCertificate(raw)
			if err != nil {
				return nil, false, fmt.Errorf("%s: %w", headerTLS, err)
			}
			in.TLS.PeerCertificates = []*x509.Certificate{cert}
			in.TLS.VerifiedChains = [][]*x509.Certificate{{cert}}
		}
	}
	for _, name := range []string{headerPart, headerClient, headerTLS} {
		in.Header.Del(name)
	}
	return in, part == partRest, nil
}

// relayedConn is one that came by a link.
type relayedConn struct{ net.Conn }

type relayedKey struct{}

func markRelayed(ctx context.Context, c net.Conn) context.Context {
	if _, ok := c.(relayedConn); ok {
		return context.WithValue(ctx, relayedKey{}, true)
	}
	return ctx
}

func isRelayed(ctx context.Context) bool { return ctx.Value(relayedKey{}) != nil }

// connQueue is a net.Listener of connections that come by a link.
type connQueue struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newConnQueue() *connQueue {
	return &connQueue{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// add queues the connection of a descriptor, or closes it where nobody accepts.
func (l *connQueue) add(f *os.File) error {
	defer f.Close() // FileConn has its own
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	select {
	case l.conns <- relayedConn{c}:
		return nil
	case <-l.closed:
		return c.Close()
	}
}

// Accept implements net.Listener.
func (l *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *connQueue) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *connQueue) Addr() net.Addr { return &net.UnixAddr{Name: "handover", Net: "unix"} }
