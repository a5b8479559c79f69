package admin

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/audit"
)

// view is one that tells what it was asked for.
type view struct{ page Page }

func (v *view) Swarm() Swarm { return Swarm{PeerID: "12D3", Zones: []Zone{{Zone: "a", Peers: 3}}} }

func (v *view) Peers(p Page, zone string) Peers {
	v.page = p
	return Peers{Total: 7, Peers: []Peer{{ID: "p1", Zone: zone}}}
}

func (v *view) Pulls(p Page, repository string) Pulls {
	v.page = p
	return Pulls{Pulls: []Pull{{Repository: repository, Hosts: 2}}}
}

func (v *view) Repository(_ context.Context, name string, p Page) (Repository, error) {
	if v.page = p; name == "team/none" {
		return Repository{}, &Error{404, "there is none"}
	}
	return Repository{Repository: name}, nil
}

func (v *view) Eviction(n int64) Eviction { return Eviction{Asked: n} }

func (v *view) AuditTail(lines int) ([]audit.Event, error) {
	v.page.Limit = lines
	return []audit.Event{{Seq: 9, User: "bob"}}, nil
}

func TestViews(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		path   string
		status int
		want   string
		page   Page
	}{
		{"/swarm", 200, `"zones":[{"zone":"a","peers":3,`, Page{}},
		{"/peers?zone=a&match=x&limit=5&offset=10", 200, `"total":7`, Page{"x", 5, 10}},
		{"/peers?limit=501", 400, "limit: want 0 to 500", Page{}},
		{"/peers?offset=-1", 400, "offset: want", Page{}},
		{"/pulls?repository=docker.io/library/nginx", 200, `"repository":"docker.io/library/nginx","hosts":2`, Page{"", defaultPage, 0}},
		{"/pulls?limit=many", 400, "limit", Page{}},
		{"/repository?name=team/app&match=v1", 200, `"repository":"team/app"`, Page{"v1", defaultPage, 0}},
		{"/repository?name=team/none", 404, "there is none", Page{Limit: defaultPage}},
		{"/repository", 400, "name is missing", Page{}},
		{"/eviction?bytes=1024", 200, `"asked":1024`, Page{}},
		{"/eviction?bytes=-1", 400, "bytes: want", Page{}},
		{"/eviction", 400, "bytes: want", Page{}},
		{"/audit?limit=3", 200, `"user":"bob"`, Page{Limit: 3}},
	} {
		r.view.page = Page{}
		if got := r.do(t, "GET", c.path, "", c.status); !strings.Contains(got, c.want) || r.view.page != c.page {
			t.Errorf("%s: %s, asked for %+v", c.path, got, r.view.page)
		}
	}
}

// Who may only look does not see who did what.
func TestAuditLogIsForAdministrators(t *testing.T) {
	r := newRig(t)
	r.caller.Admin = false
	if got := r.do(t, "GET", "/audit", "", 403); strings.Contains(got, "bob") {
		t.Error(got)
	}
}

// A page that looks every two seconds is told so where nothing changed, and is in
// no line of the audit log; what it changes is.
func TestPageLooksAgainAndAgain(t *testing.T) {
	r := newRig(t)
	r.caller.Page = true
	look := func(path, tag string) *httptest.ResponseRecorder {
		req := httptest.NewRequest("GET", Prefix+path, nil)
		req.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w
	}
	first := look("/swarm", "")
	tag := first.Header().Get("ETag")
	if first.Code != 200 || tag == "" {
		t.Fatalf("%d %q", first.Code, tag)
	}
	if again := look("/swarm", tag); again.Code != 304 || again.Body.Len() > 0 {
		t.Errorf("%d %s", again.Code, again.Body)
	}
	if other := look("/eviction?bytes=1", tag); other.Code != 200 {
		t.Errorf("something else: %d", other.Code)
	}
	if len(r.audit) > 0 {
		t.Errorf("looks are in the audit log: %+v", r.audit)
	}
	r.do(t, "POST", "/purge", `{"repository":"library/nginx"}`, 200)
	if len(r.audit) != 1 {
		t.Errorf("%+v", r.audit)
	}
}
