package auth

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/audit"
)

// desk is a Guard with its admin API and sessions, and a browser before it.
type desk struct {
	t      *testing.T
	s      *site
	h      http.Handler
	events []audit.Event
	cookie *http.Cookie
	scheme string
}

func newDesk(t *testing.T, change func(*Options), lines ...string) *desk {
	d := &desk{t: t, scheme: "http"}
	d.s = newSite(t, func(o *Options) {
		o.Audit = func(e audit.Event) { d.events = append(d.events, e) }
		if change != nil {
			change(o)
		}
	}, lines...)
	api := d.s.guard.Admin(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if Administers(r.Context()) {
			io.WriteString(w, "admin")
		}
	}))
	sessions := d.s.guard.Sessions()
	d.h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == SessionPath {
			sessions.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
	return d
}

// ask sends a request as the page does, and keeps the cookie as a browser would.
func (d *desk) ask(method, path, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	d.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.URL.Scheme = d.scheme // front.Proxies
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set(sessionHeader, "1")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if d.cookie != nil {
		r.AddCookie(d.cookie)
	}
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			d.cookie = nil
			continue
		}
		if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Secure != (d.scheme == "https") {
			d.t.Errorf("the cookie %v is not kept close", c)
		}
		d.cookie = c
	}
	return w
}

func (d *desk) signIn(user, password string) int {
	d.t.Helper()
	body, _ := json.Marshal(map[string]string{"user": user, "password": password})
	return d.ask("POST", SessionPath, string(body)).Code
}

func (d *desk) who() SessionInfo {
	d.t.Helper()
	w := d.ask("GET", SessionPath, "")
	var info SessionInfo
	if err := json.Unmarshal(w.Body.Bytes(), &info); err != nil || w.Code != 200 {
		d.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return info
}

func TestSessionOfAdministratorAndWatcher(t *testing.T) {
	d := newDesk(t, nil, "user:ops admin **", "user:ci watch **", "user:alice pull+push **")
	if got := d.who(); got.User != "" || got.Why == "" {
		t.Errorf("nobody is %+v", got)
	}
	for _, c := range []struct {
		user, password    string
		signIn, look, act int
		rights            []string
	}{
		{"ops", "root", 200, 200, 200, []string{"admin"}},
		{"ci", "robot", 200, 200, 403, []string{"watch"}},
		{"alice", "wonder", 403, 401, 401, []string{}},
		{"ops", "wrong", 401, 401, 401, []string{}},
	} {
		d.cookie = nil
		if got := d.signIn(c.user, c.password); got != c.signIn {
			t.Errorf("%s signs in: %d, want %d", c.user, got, c.signIn)
		}
		if got := d.who(); !slices.Equal(got.Rights, c.rights) {
			t.Errorf("%s is %+v", c.user, got)
		}
		if got := d.ask("GET", "/samara/v1/admin/usage", ""); got.Code != c.look || (got.Body.String() == "admin") != (c.act == 200) {
			t.Errorf("%s looks: %d %s, want %d", c.user, got.Code, got.Body, c.look)
		}
		if got := d.ask("POST", "/samara/v1/admin/purge", "{}"); got.Code != c.act {
			t.Errorf("%s acts: %d, want %d", c.user, got.Code, c.act)
		}
		if d.ask("DELETE", SessionPath, ""); d.cookie != nil {
			t.Error("signing out leaves the cookie")
		}
	}
}

// What a page of another site, or of a sibling domain, can make a browser send.
func TestSessionIsNoUseToOtherPages(t *testing.T) {
	d := newDesk(t, nil, "user:ops admin **")
	if got := d.signIn("ops", "root"); got != 200 {
		t.Fatal(got)
	}
	for name, change := range map[string]func(*http.Request){
		"without the header": func(r *http.Request) { r.Header.Del(sessionHeader) },
		"cross-site":         func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"a sibling domain":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"an older browser": func(r *http.Request) {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Origin", "https://evil.example")
		},
		"a remembered password": func(r *http.Request) {
			r.SetBasicAuth("ops", "root")
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		},
	} {
		if got := d.ask("POST", "/samara/v1/admin/scrub", "", change); got.Code != 401 && got.Code != 403 {
			t.Errorf("%s: %d", name, got.Code)
		}
	}
	foreign := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }
	if got := d.ask("POST", SessionPath, `{"user":"ops","password":"root"}`, foreign); got.Code != 403 {
		t.Errorf("signs in from elsewhere: %d", got.Code)
	}
	if d.ask("DELETE", SessionPath, "", foreign); d.who().User != "ops" {
		t.Error("signed out from elsewhere")
	}
	form := func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }
	if got := d.ask("POST", SessionPath, `{"user":"ops","password":"root"}`, form); got.Code != 403 {
		t.Errorf("signs in by a form: %d", got.Code)
	}
	if got := d.ask("POST", "/samara/v1/admin/scrub", ""); got.Code != 200 {
		t.Errorf("the page itself: %d", got.Code)
	}
}

// A session ends: unused, after a day's work, with its password, and when it is
// told to, also for who has a copy of the cookie.
func TestSessionEnds(t *testing.T) {
	d := newDesk(t, nil, "user:ops admin **")
	look := func() int { return d.ask("GET", "/samara/v1/admin/usage", "").Code }
	begin := func() {
		t.Helper()
		d.cookie = nil
		if got := d.signIn("ops", "root"); got != 200 || look() != 200 {
			t.Fatalf("%d %d", got, look())
		}
	}
	begin()
	d.s.clock.advance(sessionIdle + time.Second)
	if got := look(); got != 401 {
		t.Errorf("after an hour without use: %d", got)
	}
	begin()
	used := time.Duration(0)
	for ; look() == 200 && used < 2*sessionLife; used += 20 * time.Minute {
		d.s.clock.advance(20 * time.Minute)
	}
	if used < sessionLife || used > sessionLife+20*time.Minute {
		t.Errorf("in use it lasts %v", used)
	}
	begin()
	stolen := d.cookie
	d.ask("DELETE", SessionPath, "")
	d.cookie = stolen
	if got := look(); got != 401 {
		t.Errorf("a copy of what was ended: %d", got)
	}
	begin()
	writeFile(t, d.s.guard.o.Htpasswd, "ops:"+hashOf(t, "other")+"\n")
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(d.s.guard.o.Htpasswd, later, later); err != nil {
		t.Fatal(err)
	}
	d.s.clock.advance(2 * lookForChange)
	if got := look(); got != 401 {
		t.Errorf("with another password: %d", got)
	}
}

// Neither a session's token nor one for pulls does for the other.
func TestSessionIsNoToken(t *testing.T) {
	d := newDesk(t, nil, "user:ops admin+pull **")
	d.signIn("ops", "root")
	as := func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+d.cookie.Value)
	}
	if got := d.ask("GET", "/samara/v1/admin/usage", "", as); got.Code != 401 {
		t.Errorf("as a bearer token: %d", got.Code)
	}
	id := &Identity{User: "ops", Method: Password}
	pull, _, err := d.s.guard.issue(id, parseScopes([]string{"repository:x:pull"}))
	if err != nil {
		t.Fatal(err)
	}
	d.cookie = &http.Cookie{Name: "samara", Value: pull}
	if got := d.ask("GET", "/samara/v1/admin/usage", ""); got.Code != 401 {
		t.Errorf("a token for pulls as a session: %d", got.Code)
	}
}

func TestSessionByTLS(t *testing.T) {
	d := newDesk(t, nil, "user:ops admin **")
	d.scheme = "https"
	if got := d.signIn("ops", "root"); got != 200 || d.cookie.Name != "__Host-samara" {
		t.Errorf("%d %v", got, d.cookie)
	}
	if got := d.ask("GET", "/samara/v1/admin/usage", ""); got.Code != 200 {
		t.Error(got.Code)
	}
}

func TestSignInIsLimitedAndNoted(t *testing.T) {
	d := newDesk(t, nil, "user:ops admin **")
	for range freeFailures {
		if got := d.signIn("ops", "guess"); got != 401 {
			t.Fatal(got)
		}
	}
	if got := d.signIn("ops", "root"); got != 429 {
		t.Errorf("after %d wrong ones: %d", freeFailures, got)
	}
	if n := len(d.events); n != freeFailures+1 || d.events[0].Outcome != "invalid" || d.events[n-1].Outcome != "locked" || d.events[0].User != "ops" {
		t.Errorf("%d lines: %+v", n, d.events)
	}
}

func TestNoSessionsWithoutRules(t *testing.T) {
	d := newDesk(t, func(o *Options) { o.Rules, o.Htpasswd = nil, "" })
	if got := d.who(); !strings.Contains(got.Why, "a rule has to give") {
		t.Errorf("%+v", got)
	}
	if got := d.signIn("ops", "root"); got != 403 {
		t.Error(got)
	}
	if got := d.ask("GET", "/samara/v1/admin/usage", ""); got.Code != 403 {
		t.Error(got.Code)
	}
}
