package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const readBuffer = 256 << 10

// newTransport makes the one pool of connections of a client.
func newTransport(o Options) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.InsecureSkipVerify} // #nosec G402 -- only when the operator says so
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: holds no certificate in PEM", o.CAFile)
		}
		config.RootCAs = pool
	}
	dial := o.dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if o.Offline {
				return nil, errOffline
			}
			ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
			defer cancel()
			return dial(ctx, network, addr)
		},
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    o.ConnectTimeout,
		ResponseHeaderTimeout:  o.HeaderTimeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    2 * o.MaxConcurrent,
		MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize:         readBuffer,
		ForceAttemptHTTP2:      true,
		// Content has a digest: nobody may unpack it on the way.
		DisableCompression: true,
		HTTP2: &http.HTTP2Config{
			// A dead connection must not swallow new streams for minutes.
			SendPingTimeout: o.IdleTimeout,
			PingTimeout:     o.ConnectTimeout,
			// One blob on a long, fat path: 16 MiB is 1 Gbit/s at 130 ms.
			MaxReceiveBufferPerStream: 16 << 20,
		},
	}, nil
}

// body reads a response with an idle deadline for every Read and gives back
// what the exchange held when closed. Read by one goroutine; Close may come
// from another.
type body struct {
	rc     io.ReadCloser
	idle   time.Duration
	ctx    context.Context // of the exchange; its cancel cause tells an idle timeout
	cancel context.CancelCauseFunc
	done   func()
	once   sync.Once
	timer  *time.Timer
}

func newBody(ctx context.Context, cancel context.CancelCauseFunc, rc io.ReadCloser, idle time.Duration, done func()) *body {
	b := &body{rc: rc, idle: idle, ctx: ctx, cancel: cancel, done: done}
	b.timer = time.AfterFunc(idle, func() { cancel(errIdle) })
	b.timer.Stop()
	return b
}

// Read fails with errIdle when no byte came in time.
func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.rc.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(b.ctx), errIdle) {
		err = errIdle
	}
	return n, err
}

// Close ends the exchange; an unread rest costs the connection.
func (b *body) Close() error {
	b.once.Do(func() {
		b.timer.Stop()
		b.cancel(context.Canceled)
		_ = b.rc.Close()
		b.done()
	})
	return nil
}
