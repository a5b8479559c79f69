package accesslog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

// maxField is how many bytes of a text that a client chose are kept.
const maxField = 512

// Line is one request that has ended.
type Line struct {
	Time   time.Time `json:"time"`             // when it came
	Client string    `json:"client,omitempty"` // address, as a trusted proxy tells it
	User   string    `json:"user,omitempty"`   // empty for anonymous
	Auth   string    `json:"auth,omitempty"`   // how that was proved

	Method     string `json:"method"`
	Path       string `json:"path"` // without the query
	Kind       string `json:"kind"` // as in metrics: manifest, blob, tags, upload, …
	Repository string `json:"repository,omitempty"`
	Reference  string `json:"reference,omitempty"`

	Status   int     `json:"status"`
	Received int64   `json:"received,omitempty"` // bytes of the request's body
	Sent     int64   `json:"sent"`               // bytes of the response's body
	Cut      bool    `json:"cut,omitempty"`      // fewer than were promised
	Seconds  float64 `json:"seconds"`            // to the end of the response

	Cache     string `json:"cache,omitempty"`  // HIT, MISS, STALE
	Source    string `json:"source,omitempty"` // of what was missed
	UserAgent string `json:"userAgent,omitempty"`
}

// Options configure Open. File or Writer is required.
type Options struct {
	File   string
	Writer io.Writer // instead of a file
	Size   int64     // bytes at which the file is renamed; default 100 MiB
	Keep   int       // renamed files that stay

	// Canonical is the repository that a path and ?ns= mean; nil: as in the path.
	Canonical func(path, ns string) string

	Log        *zap.Logger           // nil: no logs
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
	Now        func() time.Time      // default time.Now
}

// Log writes lines. Safe for concurrent use.
type Log struct {
	o      Options
	failed prometheus.Counter

	mu     sync.Mutex
	write  func([]byte) error
	file   *file // nil: a writer
	broken bool  // the last write failed, and that was said
	closed bool
}

// Open goes on at the end of the file, which is made if need be.
func Open(o Options) (*Log, error) {
	if o.Size <= 0 {
		o.Size = 100 << 20
	}
	if o.Canonical == nil {
		o.Canonical = func(path, _ string) string { return path }
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{o: o, failed: promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{Namespace: o.Namespace, Subsystem: "access_log", Name: "failed_total",
		Help: "Requests that could not be written to the access log."})}
	if o.Writer != nil {
		l.write = func(line []byte) error {
			_, err := o.Writer.Write(line)
			return err
		}
		return l, nil
	}
	l.file = &file{path: o.File, limit: o.Size, keep: o.Keep}
	l.write = l.file.write
	if err := l.file.open(); err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return l, nil
}

// Record writes a line, with texts cut where they are too long.
func (l *Log) Record(e Line) {
	for _, s := range []*string{&e.Method, &e.Path, &e.Repository, &e.Reference, &e.User, &e.UserAgent} {
		if len(*s) > maxField {
			*s = (*s)[:maxField] + "…"
		}
	}
	line, err := json.Marshal(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		if err = fs.ErrClosed; !l.closed {
			err = l.write(append(line, '\n'))
		}
	}
	if err == nil {
		l.broken = false
		return
	}
	l.failed.Inc()
	if !l.broken { // once, until it works again
		l.broken = true
		l.o.Log.Error("the access log cannot be written; lines are lost until it can", zap.String("file", l.o.File), zap.Error(err))
	}
}

// Close closes the file. Lines that come later are lost.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("access log: closed twice")
	}
	l.closed = true
	if l.file == nil {
		return nil
	}
	return l.file.close()
}
