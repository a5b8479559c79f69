package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/samara-p2p/samara/internal/audit"
)

// lines are events as text, without what differs from run to run.
type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) record(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, fmt.Sprintf("%s(%s) %s %s %s %s %d", e.User, e.Auth, e.Method, e.Action, e.Repository, e.Outcome, e.Status))
}

func TestAudit(t *testing.T) {
	for _, pulls := range []bool{true, false} {
		l := &lines{}
		s := newSite(t, func(o *Options) { o.Audit, o.AuditPulls = l.record, pulls }, site1...)
		alice := basicAuth("alice", "wonder")
		s.do("GET", "/v2/", alice, 200) // worth no line
		s.do("GET", "/v2/team/app/manifests/v1", alice, 404)
		s.do("HEAD", "/v2/team/app/manifests/v1", alice, 404) // nor this
		s.do("GET", "/v2/secret/app/manifests/v1", alice, 403)
		s.do("GET", "/v2/secret/app/manifests/v1", "", 401)
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
		if !slices.Equal(l.list, want) {
			t.Errorf("pulls %v:\n got %s\nwant %s", pulls, strings.Join(l.list, "\n     "), strings.Join(want, "\n     "))
		}
		l.list = nil
		s.push("team/app")
		if last := l.list[len(l.list)-1]; last != "ops(token) PUT push up.test/team/app allowed 201" {
			t.Error(last)
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
