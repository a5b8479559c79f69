package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// TestMain runs the tests; or, in a process that a test has started, a daemon
// with a directory that only one process may use.
func TestMain(m *testing.M) {
	if dir := os.Getenv("HANDOVER_TEST_DIR"); dir != "" {
		if os.Getenv("LISTEN_FDS") != "" {
			os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())) // as a service manager would
		}
		if err := serveTest(dir); err != nil {
			fmt.Fprintln(os.Stderr, os.Getpid(), err)
			os.Exit(1)
		}
		return
	}
	// net/http lingers for half a second over a connection that it closes.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const (
	bodySize = 4 << 20
	secret   = "Bearer secret"
	etag     = `"sha256:content"`
)

// serveTest is the daemon: its files in dir say what goes wrong.
func serveTest(dir string) error {
	step = func(name string) {
		fmt.Fprintln(os.Stderr, os.Getpid(), "step", name)
		if die := filepath.Join(dir, "die-"+name); os.Rename(die, fmt.Sprint(die, ".", os.Getpid())) == nil {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	log := zap.Must(zap.NewDevelopment())
	p, err := New(Options{Name: "test", Log: log, Grace: time.Minute})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return p.Run(ctx, func(ctx context.Context, t *Turn) error { return turnTest(ctx, t, dir) })
}

func turnTest(ctx context.Context, t *Turn, dir string) error {
	addr := os.Getenv("HANDOVER_TEST_LISTEN")
	if os.Remove(filepath.Join(dir, "fail-early")) == nil {
		return errors.New("a setting is wrong")
	}
	if _, err := t.Bind(ctx, "--listen", addr); err != nil {
		return err
	}
	if err := t.Await(ctx); err != nil {
		return err
	}
	if t.Follows() && os.Remove(filepath.Join(dir, "fail-late")) == nil {
		return errors.New("the data is not understood")
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another process uses the directory: %w", err)
	}
	return t.Serve(ctx, Service{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, true) }),
		Rest:    http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, false) }),
		Started: func() {}, Stopping: func(string) {},
	})
}

// answer serves /pid, /body by and by, /slow late, and takes /upload. guarded: it
// wants a password.
func answer(w http.ResponseWriter, r *http.Request, guarded bool) {
	w.Header().Set("Server-Pid", strconv.Itoa(os.Getpid()))
	switch given := r.Header.Get("Authorization"); {
	case r.URL.Path == "/pid":
		fmt.Fprint(w, os.Getpid())
		return
	case guarded && given != secret, !guarded && given != "":
		http.Error(w, "denied", http.StatusForbidden)
		return
	}
	switch r.URL.Path {
	case "/body":
		w.Header().Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, &slowly{ctx: r.Context()})
	case "/slow":
		t := time.NewTimer(time.Minute)
		defer t.Stop()
		if r.Header.Get("Only-Pid") != strconv.Itoa(os.Getpid()) {
			fmt.Fprint(w, r.RemoteAddr)
			return
		}
		select {
		case <-t.C:
		case <-r.Context().Done():
		}
		http.Error(w, "too late", http.StatusInternalServerError)
	case "/upload":
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	default:
		http.NotFound(w, r)
	}
}

// slowly is content that comes at about 8 MiB a second.
type slowly struct {
	ctx context.Context
	pos int64
}

func byteAt(i int64) byte { return byte(i*31 + i>>8*7 + i>>16) }

func (s *slowly) Read(p []byte) (int, error) {
	t := time.NewTimer(4 * time.Millisecond)
	defer t.Stop()
	select {
	case <-s.ctx.Done():
		return 0, context.Cause(s.ctx)
	case <-t.C:
	}
	n := int(min(int64(len(p)), 32<<10, bodySize-s.pos))
	for i := range n {
		p[i] = byteAt(s.pos + int64(i))
	}
	s.pos += int64(n)
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *slowly) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		s.pos = off
	case io.SeekEnd:
		s.pos = bodySize + off
	default:
		return 0, errors.ErrUnsupported
	}
	return s.pos, nil
}

// wrong is where p is not what begins at off; "" where it is.
func wrong(p []byte, off int64) string {
	for i, b := range p {
		if b != byteAt(off+int64(i)) {
			return fmt.Sprintf("byte %d is wrong", off+int64(i))
		}
	}
	return ""
}

func contains(list []string, text string) bool {
	for _, s := range list {
		if strings.Contains(s, text) {
			return true
		}
	}
	return false
}
