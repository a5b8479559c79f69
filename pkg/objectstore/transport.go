package objectstore

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

const (
	dialTime   = 3 * time.Second
	headerTime = 30 * time.Second // to finish a large object may take the store long
	idleTime   = 30 * time.Second // without a byte in either direction
)

func newTransport(c *tls.Config) *http.Transport {
	d := &net.Dialer{Timeout: dialTime}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &movingConn{Conn: conn}, nil
		},
		TLSClientConfig: c, TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: headerTime, ExpectContinueTimeout: time.Second,
		MaxIdleConns: 64, MaxIdleConnsPerHost: 32, IdleConnTimeout: idleTime - 5*time.Second,
		DisableCompression: true, // content is what it is
		ForceAttemptHTTP2:  false,
	}
}

// movingConn is a connection on which bytes must move: a store that is frozen
// in the middle of an upload would else hold it for ever.
type movingConn struct{ net.Conn }

func (c *movingConn) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(idleTime)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *movingConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(idleTime)); err != nil { // for the answer, too
		return 0, err
	}
	return c.Conn.Write(p)
}

// counting counts requests and how long they take to be answered.
type counting struct {
	next http.RoundTripper
	host string
	m    *metrics
}

// RoundTrip implements http.RoundTripper.
func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != c.host && !isSubdomain(r.URL.Host, c.host) {
		return c.next.RoundTrip(r) // credentials of the machine
	}
	began := time.Now()
	resp, err := c.next.RoundTrip(r)
	c.m.seconds.WithLabelValues(r.Method).Observe(time.Since(began).Seconds())
	c.m.requests.WithLabelValues(r.Method, resultOf(resp, err)).Inc()
	return resp, err
}

func isSubdomain(host, of string) bool {
	return len(host) > len(of) && host[len(host)-len(of)-1:] == "."+of
}

func resultOf(resp *http.Response, err error) string {
	switch {
	case err != nil:
		return "failed"
	case resp.StatusCode < 400:
		return "ok"
	case resp.StatusCode == http.StatusNotFound:
		return "not_found"
	case resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized:
		return "denied"
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable:
		return "throttled"
	case resp.StatusCode >= 500:
		return "error"
	}
	return "refused"
}
