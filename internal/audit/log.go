package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

const (
	maxLine   = 64 << 10 // bytes; what fields of maxField cannot reach, escaped
	maxField  = 512      // bytes of a text that is kept
	syncEvery = time.Second
	hashKey   = `,"hash":"`
)

// Event is one line.
type Event struct {
	Seq  uint64    `json:"seq"` // set by Record, as Time and Prev
	Time time.Time `json:"time"`

	User   string `json:"user,omitempty"` // empty for anonymous
	Auth   string `json:"auth,omitempty"` // how that was proved
	Client string `json:"client,omitempty"`

	Action     string `json:"action"` // pull, push, delete, catalog, login, admin, repair
	Method     string `json:"method,omitempty"`
	Repository string `json:"repository,omitempty"`
	Reference  string `json:"reference,omitempty"`
	Digest     string `json:"digest,omitempty"`

	Outcome string `json:"outcome"` // allowed, or why not
	Status  int    `json:"status,omitempty"`
	Note    string `json:"note,omitempty"`

	Prev string `json:"prev"` // hash of the line before; of the first, empty
}

// Options configure Open. File is required.
type Options struct {
	File string
	Size int64 // bytes after which the file is renamed; default 100 MiB
	Keep int   // renamed files that stay; 0: all

	Log        *zap.Logger           // nil: no logs
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
	Now        func() time.Time      // default time.Now
}

// Log writes events. Safe for concurrent use.
type Log struct {
	o      Options
	events prometheus.Counter
	failed prometheus.Counter

	mu     sync.Mutex
	f      *os.File
	size   int64 // of whole lines
	seq    uint64
	head   string // hash of the last line
	synced time.Time
	broken bool // the last write failed, and that was said
}

// Open goes on where the file ends. A last line that was not written whole is
// removed, and a line says so. A file whose last line is whole and wrong is an
// error: nothing is added to a chain that is broken.
func Open(o Options) (*Log, error) {
	if o.Size <= 0 {
		o.Size = 100 << 20
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	f := promauto.With(o.Registerer)
	l := &Log{o: o,
		events: f.NewCounter(prometheus.CounterOpts{Namespace: o.Namespace, Subsystem: "audit", Name: "events_total",
			Help: "Lines written to the audit log."}),
		failed: f.NewCounter(prometheus.CounterOpts{Namespace: o.Namespace, Subsystem: "audit", Name: "failed_total",
			Help: "Events that could not be written to the audit log."}),
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return l, nil
}

func (l *Log) open() error {
	if err := os.MkdirAll(filepath.Dir(l.o.File), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.o.File, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	l.f = f
	torn, err := l.resume()
	if err != nil {
		f.Close()
		return err
	}
	if torn > 0 {
		l.o.Log.Warn("the audit log ended in a line that was not written whole; it was removed", zap.String("file", l.o.File), zap.Int64("bytes", torn))
		l.Record(Event{Action: "repair", Outcome: "allowed", Note: fmt.Sprintf("removed %d bytes of a line that was not written whole", torn)})
	}
	return nil
}

// resume finds where the chain is, and cuts off what was not written whole.
func (l *Log) resume() (torn int64, err error) {
	st, err := l.f.Stat()
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(st.Size(), 2*maxLine))
	if _, err := l.f.ReadAt(tail, st.Size()-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	torn = int64(len(tail) - end)
	if end == 0 && st.Size() > int64(len(tail)) {
		return 0, fmt.Errorf("%s is no audit log", l.o.File)
	}
	l.size = st.Size() - torn
	line := tail[:max(0, end-1)]
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	if len(line) == 0 { // this file is new; the chain may be older
		if line, err = l.lastOfOlder(); err != nil {
			return 0, err
		}
	}
	if len(line) > 0 {
		e, hash, err := parse(line)
		if err != nil {
			return 0, fmt.Errorf("%s: the last line is damaged (%w); `seeder audit verify` says since when; move the file away to begin a new chain", l.o.File, err)
		}
		l.seq, l.head = e.Seq, hash
	}
	if torn > 0 {
		if err := l.f.Truncate(l.size); err != nil {
			return 0, err
		}
	}
	_, err = l.f.Seek(l.size, io.SeekStart)
	return torn, err
}

// lastOfOlder is the last line of the file that was renamed last.
func (l *Log) lastOfOlder() ([]byte, error) {
	old, err := Older(l.o.File)
	if err != nil || len(old) == 0 {
		return nil, err
	}
	f, err := os.Open(old[len(old)-1])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tail := make([]byte, min(st.Size(), 2*maxLine))
	if _, err := f.ReadAt(tail, st.Size()-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	tail = bytes.TrimSuffix(tail, []byte{'\n'})
	return tail[bytes.LastIndexByte(tail, '\n')+1:], nil
}

// Older are the files that a log was renamed to, the oldest first.
func Older(file string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), filepath.Base(file)+".")
		if ok && len(number) == 12 && strings.Trim(number, "0123456789") == "" {
			list = append(list, filepath.Join(filepath.Dir(file), e.Name()))
		}
	}
	slices.Sort(list)
	return list, nil
}

// bound keeps what a client sent, be it a method of 60 KiB, from filling the
// log, and from making a line that neither Verify nor Open would take for one.
func (e *Event) bound() {
	for _, s := range []*string{&e.User, &e.Auth, &e.Client, &e.Action, &e.Method, &e.Repository, &e.Reference, &e.Digest, &e.Outcome, &e.Note} {
		if len(*s) > maxField {
			*s = (*s)[:maxField] + "…"
		}
	}
}

// Record writes a line, with texts cut where they are too long. Seq, Time and
// Prev of e are set here.
func (l *Log) Record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.write(e)
	if err == nil {
		l.events.Inc()
		l.broken = false
		return
	}
	l.failed.Inc()
	if !l.broken { // once, until it works again
		l.broken = true
		l.o.Log.Error("the audit log cannot be written; events are lost until it can", zap.String("file", l.o.File), zap.Error(err))
	}
}

func (l *Log) write(e Event) error {
	if l.f == nil {
		return fs.ErrClosed
	}
	now := l.o.Now()
	e.bound()
	e.Seq, e.Time, e.Prev = l.seq+1, now.UTC(), l.head
	line, hash, err := seal(e)
	if err != nil {
		return err
	}
	if l.size > 0 && l.size+int64(len(line)) > l.o.Size {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if _, err := l.f.Write(line); err != nil {
		// Whatever part of it is there must not stay before the next line.
		return errors.Join(err, l.f.Truncate(l.size), seek(l.f, l.size))
	}
	l.size += int64(len(line))
	l.seq, l.head = e.Seq, hash
	if now.Sub(l.synced) >= syncEvery {
		l.synced = now
		return l.f.Sync()
	}
	return nil
}

func seek(f *os.File, at int64) error {
	_, err := f.Seek(at, io.SeekStart)
	return err
}

// seal makes the line of an event.
func seal(e Event) (line []byte, hash string, err error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, "", err
	}
	body = body[:len(body)-1] // the brace comes after the hash
	sum := sha256.Sum256(body)
	hash = hex.EncodeToString(sum[:])
	return append(append(append(body, hashKey...), hash...), "\"}\n"...), hash, nil
}

// rotate renames the file and begins another.
func (l *Log) rotate() error {
	if err := l.f.Sync(); err != nil {
		return err
	}
	f, err := os.OpenFile(l.o.File+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := os.Rename(l.o.File, fmt.Sprintf("%s.%012d", l.o.File, l.seq)); err != nil {
		f.Close()
		return err
	}
	if err := os.Rename(l.o.File+".new", l.o.File); err != nil {
		f.Close()
		return err
	}
	l.f.Close() // synced
	l.f, l.size = f, 0
	if l.o.Keep <= 0 {
		return nil
	}
	old, err := Older(l.o.File)
	if err != nil {
		return err
	}
	for _, file := range old[:max(0, len(old)-l.o.Keep)] {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// Close writes all to the disk.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := errors.Join(l.f.Sync(), l.f.Close())
	l.f = nil
	return err
}
