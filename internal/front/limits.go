package front

import (
	"container/list"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/pkg/registry"
)

// maxClients bounds how many clients' rates are remembered: some 10 MiB. The
// one that was there longest ago is forgotten, and begins anew.
const maxClients = 1 << 16

// uploadRetry is when to try again while too many uploads are under way.
const uploadRetry = 5 * time.Second

// LimitOptions configure NewLimits. A limit of 0 is none.
type LimitOptions struct {
	Rate  int // requests per second of one client
	Burst int // requests that it may save up; at least Rate

	Uploads          int // requests that send content, at a time, in all
	UploadsPerClient int // the same, of one client

	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
	Now        func() time.Time      // default time.Now
}

// Limits keeps single clients from taking all there is. Safe for concurrent
// use.
type Limits struct {
	o       LimitOptions
	limited *prometheus.CounterVec

	mu      sync.Mutex
	clients map[netip.Prefix]*list.Element // of *bucket
	order   *list.List                     // the one seen last first
	uploads map[string]int                 // under way, by client
	total   int
}

type bucket struct {
	client netip.Prefix
	*rate.Limiter
}

// NewLimits makes limits.
func NewLimits(o LimitOptions) *Limits {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Limits{o: o, clients: map[netip.Prefix]*list.Element{}, order: list.New(), uploads: map[string]int{}}
	f := promauto.With(o.Registerer)
	l.limited = f.NewCounterVec(prometheus.CounterOpts{Namespace: o.Namespace, Subsystem: "http", Name: "limited_total",
		Help: "Requests answered 429 by a limit: rate, uploads (in all), client_uploads."}, []string{"limit"})
	f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: o.Namespace, Subsystem: "http", Name: "uploads_in_flight",
		Help: "Requests that are sending content."}, func() float64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return float64(l.total)
	})
	return l
}

// Requests bounds the rate of requests of each address; of IPv6, of each /64.
func (l *Limits) Requests(next http.Handler) http.Handler {
	if l.o.Rate <= 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := l.take(clientOf(r)); wait > 0 {
			l.refuse(w, r, "rate", wait, "too many requests from this client")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// take is 0, or for how long the client has to wait.
func (l *Limits) take(client netip.Prefix) time.Duration {
	l.mu.Lock()
	e := l.clients[client]
	if e != nil {
		l.order.MoveToFront(e)
	} else {
		if l.order.Len() >= maxClients {
			oldest := l.order.Back()
			delete(l.clients, oldest.Value.(*bucket).client)
			l.order.Remove(oldest)
		}
		e = l.order.PushFront(&bucket{client, rate.NewLimiter(rate.Limit(l.o.Rate), max(l.o.Burst, l.o.Rate))})
		l.clients[client] = e
	}
	l.mu.Unlock()
	now := l.o.Now()
	res := e.Value.(*bucket).ReserveN(now, 1)
	wait := res.DelayFrom(now)
	if wait > 0 {
		res.CancelAt(now)
	}
	return wait
}

// Uploads bounds the requests that send content and are under way. who names
// the client; "" stands for its address. It belongs behind whatever finds out
// who that is.
func (l *Limits) Uploads(who func(*http.Request) string, next http.Handler) http.Handler {
	if l.o.Uploads <= 0 && l.o.UploadsPerClient <= 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost && r.Method != http.MethodPut && r.Method != http.MethodPatch {
			next.ServeHTTP(w, r)
			return
		}
		client := who(r)
		if client == "" {
			client = clientOf(r).String()
		}
		if limit := l.begin(client); limit != "" {
			l.refuse(w, r, limit, uploadRetry, "too many uploads at the same time")
			return
		}
		defer l.end(client)
		next.ServeHTTP(w, r)
	})
}

// begin counts an upload, or names the limit that is in its way.
func (l *Limits) begin(client string) (limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.o.Uploads > 0 && l.total >= l.o.Uploads:
		return "uploads"
	case l.o.UploadsPerClient > 0 && l.uploads[client] >= l.o.UploadsPerClient:
		return "client_uploads"
	}
	l.total++
	l.uploads[client]++
	return ""
}

func (l *Limits) end(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.uploads[client]--; l.uploads[client] == 0 {
		delete(l.uploads, client)
	}
}

func (l *Limits) refuse(w http.ResponseWriter, r *http.Request, limit string, wait time.Duration, why string) {
	l.limited.WithLabelValues(limit).Inc()
	if r.ContentLength != 0 { // nobody reads what is being sent
		w.Header().Set("Connection", "close")
	}
	registry.WriteError(w, r, &registry.Error{Status: http.StatusTooManyRequests, Code: registry.CodeTooManyRequests, Message: why, RetryAfter: wait})
}

// clientOf is who a request counts for: an address, or a /64 of IPv6, since
// that is what one host has. The zero Prefix stands for all that are unknown.
func clientOf(r *http.Request) netip.Prefix {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // of a valid address with fewer bits: no error
	return p
}
