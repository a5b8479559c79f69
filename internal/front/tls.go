package front

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/authorities"
)

// lookForChange is how often at most files are looked at.
const lookForChange = time.Second

// TLSOptions configure NewTLS. Cert and Key are required.
type TLSOptions struct {
	Cert, Key string // PEM files; the certificate with its chain
	// ClientCA is a PEM file of authorities. Certificates that clients show are
	// checked with it; "": clients are not asked for any.
	ClientCA       string
	ClientRequired bool // who shows no certificate is not let in

	Log        *zap.Logger           // nil: no logs
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
	Now        func() time.Time      // default time.Now
}

// TLS answers handshakes with certificates from files, which are read again
// when they change. Safe for concurrent use.
type TLS struct {
	o TLSOptions

	mu     sync.Mutex
	config *tls.Config
	expiry time.Time
	stamps [3]stamp
	looked time.Time
}

// stamp tells two versions of a file apart.
type stamp struct {
	size int64
	mod  time.Time
}

// NewTLS reads the files. Errors say which one is wrong.
func NewTLS(o TLSOptions) (*TLS, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &TLS{o: o, looked: o.Now()}
	t.stamps, _ = t.stamp() // what is missing shows in load
	var err error
	if t.config, t.expiry, err = t.load(); err != nil {
		return nil, err
	}
	RegisterExpiry(o.Registerer, o.Namespace, t.notAfter)
	return t, nil
}

// RegisterExpiry makes the metric of when the certificate in use ends, whoever
// it comes from.
func RegisterExpiry(reg prometheus.Registerer, namespace string, notAfter func() time.Time) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "tls", Name: "certificate_expiry_seconds",
		Help: "When the certificate in use ends, in seconds since 1970; 0 where there is none yet."}, func() float64 {
		if at := notAfter(); !at.IsZero() {
			return float64(at.Unix())
		}
		return 0
	})
}

// base is what every configuration of ours has. HTTP/1.1 alone: HTTP/2 costs
// twice the processor time per byte, and its streams share one connection.
func base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// Config is for a listener.
func (t *TLS) Config() *tls.Config {
	c := base()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current(), nil }
	return c
}

// current is the configuration by the files as they are now, or as they were
// when they could be used last.
func (t *TLS) current() *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.o.Now()
	if d := now.Sub(t.looked); d >= 0 && d < lookForChange {
		return t.config
	}
	t.looked = now
	stamps, err := t.stamp()
	if err == nil && stamps == t.stamps {
		return t.config
	}
	if err != nil && t.stamps == ([3]stamp{}) {
		return t.config // missing, and that was said
	}
	t.stamps = stamps
	if err == nil {
		var config *tls.Config
		var expiry time.Time
		if config, expiry, err = t.load(); err == nil {
			t.config, t.expiry = config, expiry
			t.o.Log.Info("certificate read again", zap.String("file", t.o.Cert), zap.Time("until", expiry))
			return t.config
		}
	}
	t.o.Log.Error("the certificate on disk cannot be used; the one of before stays", zap.Time("until", t.expiry), zap.Error(err))
	return t.config
}

func (t *TLS) notAfter() time.Time {
	t.current()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expiry
}

// stamp looks at the files; where one is missing, stamps are zero.
func (t *TLS) stamp() (stamps [3]stamp, err error) {
	for i, file := range []string{t.o.Cert, t.o.Key, t.o.ClientCA} {
		if file == "" {
			continue
		}
		st, err := os.Stat(file)
		if err != nil {
			return [3]stamp{}, err
		}
		stamps[i] = stamp{st.Size(), st.ModTime()}
	}
	return stamps, nil
}

// load makes a configuration of the files.
func (t *TLS) load() (*tls.Config, time.Time, error) {
	cert, err := tls.LoadX509KeyPair(t.o.Cert, t.o.Key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("certificate %s with key %s: %w", t.o.Cert, t.o.Key, err)
	}
	if t.o.Now().After(cert.Leaf.NotAfter) {
		return nil, time.Time{}, fmt.Errorf("certificate %s ended at %s", t.o.Cert, cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	c := base()
	c.Certificates = []tls.Certificate{cert}
	if t.o.ClientCA != "" {
		if c.ClientCAs, err = authorities.Read(t.o.ClientCA); err != nil {
			return nil, time.Time{}, err
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
		if t.o.ClientRequired {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return c, cert.Leaf.NotAfter, nil
}
