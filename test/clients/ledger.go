package clients

import (
	"net"
	"net/http"
	"strings"
	"sync"
)

// ledger counts bytes of blobs by the address that they go to. Safe for
// concurrent use.
type ledger struct {
	mu    sync.Mutex
	bytes map[string]int64
}

func (l *ledger) of(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(w, r)
			return
		}
		ip, _, _ := net.SplitHostPort(r.RemoteAddr)
		next.ServeHTTP(&counted{w, l, ip}, r)
	})
}

func (l *ledger) by(ip string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes[ip]
}

func (l *ledger) add(ip string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes == nil {
		l.bytes = map[string]int64{}
	}
	l.bytes[ip] += int64(n)
}

type counted struct {
	http.ResponseWriter
	l  *ledger
	ip string
}

// Unwrap is for http.ResponseController.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.l.add(c.ip, n)
	return n, err
}
