package mirror

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"go.uber.org/zap"
)

// silent passes HTTP requests on, until it is set to hang: then it takes them
// and never answers, as a frozen process does; or says yes, and then nothing.
// With no target it hangs from the start.
type silent struct {
	to  string
	yes bool

	mu    sync.Mutex
	hangs bool
	seen  int
	over  chan struct{}
}

// start returns the URL in front.
func (s *silent) start(t *testing.T) string {
	t.Helper()
	s.over = make(chan struct{})
	s.hangs = s.to == ""
	target, err := url.Parse(s.to)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(target)
	pass.Transport = &http.Transport{DisableKeepAlives: true}
	pass.ErrorLog = zap.NewStdLog(zap.NewNop()) // clients that left
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		hangs := s.hangs
		s.mu.Unlock()
		if hangs {
			_, _ = io.Copy(io.Discard, r.Body)
			if s.yes {
				w.Header().Set("Content-Length", "100")
				_ = http.NewResponseController(w).Flush()
			}
			select {
			case <-s.over:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		}
		pass.ServeHTTP(w, r)
	}))
	srv.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			s.mu.Lock()
			s.seen++
			s.mu.Unlock()
		}
	}
	srv.Start()
	t.Cleanup(func() {
		close(s.over)
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL
}

// set makes it hang, or not.
func (s *silent) set(hangs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs = hangs
}

// count is how many connections it has taken.
func (s *silent) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}
