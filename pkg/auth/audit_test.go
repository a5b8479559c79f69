package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/audit"
)

// lines are events as text, without what differs from run to run.
type lines chan string

func (l lines) record(e audit.Event) {
	l <- fmt.Sprintf("%s(%s) %s %s %s %s %d", e.User, e.Auth, e.Method, e.Action, e.Repository, e.Outcome, e.Status)
}

// next waits for a line: it is written when its request has been answered.
func (l lines) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-l:
		return line
	case <-time.After(20 * time.Second):
		t.Fatal("no line")
		return ""
	}
}

func TestAudit(t *testing.T) {
	for _, pulls := range []bool{true, false} {
		l := make(lines, 100)
		s := newSite(t, func(o *Options) { o.Audit, o.AuditPulls = l.record, pulls }, site1...)
		alice := basicAuth("alice", "wonder")
		s.do("GET", "/v2/", alice, 200) // worth no line
		s.do("GET", "/v2/team/app/manifests/v1", alice, 404)
		s.do("HEAD", "/v2/team/app/manifests/v1", alice, 404) // nor this
		s.do("GET", "/v2/secret/app/manifests/v1", alice, 403)
		s.do("GET", "/v2/secret/app/manifests/v1", "", 401)
		s.do("HEAD", "/v2/secret/app/manifests/v1", "", 401)
		s.do("GET", "/v2/", basicAuth("alice", "guess"), 401)
		s.do("GET", "/v2/", basicAuth("my-own-password", "oops"), 401)
		s.do("POST", "/v2/team/app/blobs/uploads/", basicAuth("ci", "robot"), 202) // only its end is
		s.do("POST", "/v2/team/app/blobs/uploads/", alice, 403)
		s.do("DELETE", "/v2/team/app/manifests/v1", basicAuth("ops", "root"), 404)
		s.token(alice, "repository:team/app:pull,push")
		s.do("GET", "/v2/none", "", 404)
		want := []string{
			"alice(password) GET pull up.test/team/app failed 404",
			"alice(password) GET pull up.test/secret/app denied 403",
			"(anonymous) GET pull up.test/secret/app unauthenticated 401",
			"alice(anonymous) GET login  invalid 401",
			"(unknown)(anonymous) GET login  invalid 401",
			"alice(password) POST push up.test/team/app denied 403",
			"ops(password) DELETE delete up.test/team/app failed 404",
			"alice(password) GET login  allowed 0",
		}
		if !pulls {
			want = want[1:]
		}
		for _, line := range want {
			if got := l.next(t); got != line {
				t.Errorf("pulls %v:\n got %s\nwant %s", pulls, got, line)
			}
		}
		s.push("team/app")
		for line := ""; line != "ops(token) PUT push up.test/team/app allowed 201"; {
			line = l.next(t)
		}
	}
}

func TestCertificateIsAUser(t *testing.T) {
	s := newSite(t, nil, "user:cert:robot pull **")
	r := httptest.NewRequest("GET", "/v2/team/app/manifests/v1", nil)
	status := func() int {
		w := httptest.NewRecorder()
		s.guard.Wrap(http.NotFoundHandler()).ServeHTTP(w, r)
		return w.Code
	}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: "robot"}}}}
	if got := status(); got != 401 {
		t.Errorf("a certificate that was not verified: %d", got)
	}
	for name, want := range map[string]int{"robot": 404, "other": 403, "": 401} {
		r.TLS.VerifiedChains = [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: name}}}}
		if got := status(); got != want {
			t.Errorf("certificate of %q: %d, want %d", name, got, want)
		}
	}
}
