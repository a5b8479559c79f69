package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/pkg/registry"
)

// SessionPath is where Sessions belongs.
const SessionPath = "/samara/v1/session"

const (
	// sessionHeader is in every request that counts on a session. A page of another
	// site cannot make a browser send it, not even one of a sibling domain, for
	// which SameSite is no bar.
	sessionHeader = "Samara-Session"
	maxLogin      = 64 << 10
	maxSignedOut  = 4096

	sessionIdle  = time.Hour        // without a request
	sessionRenew = 10 * time.Minute // the age at which a request renews it
	sessionLife  = 12 * time.Hour   // however much it is used
)

// sessionClaims are those of a session's cookie. It is a token: a session outlives
// a restart, and costs no memory.
type sessionClaims struct {
	jwt.Claims
	Began *jwt.NumericDate `json:"auth_time"`
	// Proof is of the password's hash: a session ends with the password, or the
	// user, that it was begun with.
	Proof string `json:"proof,omitempty"`
	// Rights are those of an issuer's user, whose groups and claims are not known
	// later. Rules decide about all others.
	Rights []string `json:"rights,omitempty"`
}

// signedOut are sessions that were ended before their time, until then.
type signedOut struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (s *signedOut) add(id string, until, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for old, t := range s.until {
		if now.After(t) {
			delete(s.until, old)
		}
	}
	if s.until == nil || len(s.until) >= maxSignedOut {
		s.until = map[string]time.Time{}
	}
	s.until[id] = until
}

func (s *signedOut) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.until[id]
	return ok
}

// cookieName of a request's session. By TLS the name is one that no other host,
// and nobody without TLS, can set.
func cookieName(r *http.Request) string {
	if encrypted(r) {
		return "__Host-samara"
	}
	return "samara"
}

func encrypted(r *http.Request) bool { return r.URL.Scheme == "https" || r.TLS != nil }

// bySession finds out who began the session of a request; nil where it has none.
func (g *Guard) bySession(r *http.Request) (*Identity, error) {
	c, err := r.Cookie(cookieName(r))
	if err != nil || r.Header.Get(sessionHeader) == "" {
		return nil, nil
	}
	s, err := g.readSession(c.Value)
	if err != nil {
		return anonymous, err
	}
	id := &Identity{User: s.Subject, Method: Session, session: s}
	if s.Rights != nil {
		return id, nil
	}
	if g.users == nil || !g.users.stands(s.Subject, s.Proof) {
		return anonymous, errSessionOver
	}
	id.Groups = g.o.Groups[s.Subject]
	return id, nil
}

var errSessionOver = &denied{reason: "invalid", message: "the session is over; sign in again"}

func (g *Guard) readSession(raw string) (*sessionClaims, error) {
	t, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(t.Headers) != 1 || len(raw) > maxToken {
		return nil, errSessionOver
	}
	key := g.keys.public(t.Headers[0].KeyID)
	s := &sessionClaims{}
	if key == nil || t.Claims(key, s) != nil || s.Expiry == nil || s.Began == nil || s.IssuedAt == nil {
		return nil, errSessionOver
	}
	want := jwt.Expected{Issuer: g.o.Service, AnyAudience: jwt.Audience{g.sessionAudience()}, Time: g.o.Now()}
	if s.ValidateWithLeeway(want, 0) != nil || g.signedOut.has(s.ID) {
		return nil, errSessionOver
	}
	return s, nil
}

// sessionAudience keeps sessions and tokens for pulls apart.
func (g *Guard) sessionAudience() string { return g.o.Service + " sessions" }

// stands tells whether a user still has the password that a proof is of.
func (h *htpasswd) stands(user, proof string) bool {
	now := h.proof(user)
	return now != "" && now == proof
}

// proof stands for a user's password; "" where there is no such user.
func (h *htpasswd) proof(user string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refresh()
	hash := h.users[user]
	if hash == nil {
		return ""
	}
	sum := sha256.Sum256(append([]byte("samara session\x00"+user+"\x00"), hash...))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// setSession gives the cookie of a session that goes on from now.
func (g *Guard) setSession(w http.ResponseWriter, r *http.Request, s *sessionClaims, most time.Time) error {
	now := g.o.Now()
	until := now.Add(sessionIdle)
	if end := s.Began.Time().Add(sessionLife); end.Before(until) {
		until = end
	}
	if !most.IsZero() && most.Before(until) {
		until = most
	}
	s.Issuer, s.Audience = g.o.Service, jwt.Audience{g.sessionAudience()}
	s.IssuedAt, s.Expiry = jwt.NewNumericDate(now), jwt.NewNumericDate(until)
	signer, err := g.keys.signer()
	if err != nil {
		return err
	}
	token, err := jwt.Signed(signer).Claims(s).Serialize()
	if err == nil {
		g.setCookie(w, r, token, 0)
	}
	return err
}

// setCookie sets it until the browser ends, or removes it (age -1).
func (g *Guard) setCookie(w http.ResponseWriter, r *http.Request, value string, age int) {
	http.SetCookie(w, &http.Cookie{Name: cookieName(r), Value: value, Path: "/", MaxAge: age,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: encrypted(r)})
}

// renew lets a session that is used go on. One of an issuer's user does not: it
// ends with what proved it.
func (g *Guard) renew(w http.ResponseWriter, r *http.Request, id *Identity) {
	if s := id.session; s != nil && s.Rights == nil && g.o.Now().Sub(s.IssuedAt.Time()) >= sessionRenew {
		again := *s
		_ = g.setSession(w, r, &again, time.Time{}) // else it ends as it would have
	}
}

// SessionInfo says whom a session is of.
type SessionInfo struct {
	User   string   `json:"user"`          // "" where there is none
	Rights []string `json:"rights"`        // admin, watch
	Ends   bool     `json:"ends"`          // it can be ended: it is not by a certificate
	Why    string   `json:"why,omitempty"` // there is none
	Closed bool     `json:"closed"`        // nobody can sign in
}

// Sessions lets people sign in with a browser, at SessionPath: POST with a user
// name and a password begins a session, GET tells whose it is, DELETE ends it. It
// is for those whom a rule gives the admin or watch action.
func (g *Guard) Sessions() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch r.Method {
		case http.MethodGet:
			giveSession(w, g.session(r))
		case http.MethodPost:
			id, err := g.signIn(w, r)
			g.metrics.request(id, err)
			if err != nil {
				g.refuseSession(w, r, id, err)
				return
			}
			g.tell(r, id, "sign in", "allowed", http.StatusOK)
			giveSession(w, g.infoOf(id))
		case http.MethodDelete:
			if crossOrigin.Check(r) == nil {
				g.signOut(w, r)
			}
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Allow", "GET, POST, DELETE")
			registry.WriteError(w, r, &registry.Error{Status: http.StatusMethodNotAllowed, Code: registry.CodeUnsupported, Message: "use GET, POST or DELETE"})
		}
	})
}

func giveSession(w http.ResponseWriter, info SessionInfo) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(info) // nobody is left to tell
}

func (g *Guard) infoOf(id *Identity) SessionInfo {
	return SessionInfo{User: id.User, Rights: g.operates(id).names(), Ends: id.Method != Certificate}
}

// session tells whose session a request has. That there is none is no error: a
// page asks first of all.
func (g *Guard) session(r *http.Request) SessionInfo {
	id, err := g.operator(r)
	switch {
	case g.open:
		err = errNoRules
	case err == nil && id == anonymous:
		err = errNoCredentials
	}
	if err != nil {
		return SessionInfo{Rights: []string{}, Why: err.Error(), Closed: g.open}
	}
	return g.infoOf(id)
}

// errNoConsole says that an account is good, and not for this.
var errNoConsole = &denied{reason: "denied", message: "this account has no right here: a rule has to give it admin or watch, like --allow 'user:NAME watch **'"}

// signIn checks a user name and a password, and begins a session.
func (g *Guard) signIn(w http.ResponseWriter, r *http.Request) (*Identity, error) {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case g.open:
		return anonymous, errNoRules
	case crossOrigin.Check(r) != nil || err != nil || t != "application/json":
		return anonymous, errForeignPage
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(formTime))
	var in struct{ User, Password string }
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLogin)).Decode(&in) != nil {
		return anonymous, errBadLogin
	}
	id, err := g.login(r.Context(), client(r), in.User, in.Password)
	if err == nil && g.operates(id) == 0 {
		err = errNoConsole
	}
	if err == nil {
		err = g.begin(w, r, id)
	}
	return id, err
}

// begin gives a session to who has signed in.
func (g *Guard) begin(w http.ResponseWriter, r *http.Request, id *Identity) error {
	s := &sessionClaims{Claims: jwt.Claims{Subject: id.User, ID: rand.Text()}, Began: jwt.NewNumericDate(g.o.Now())}
	if id.Method == Password {
		s.Proof = g.users.proof(id.User)
	} else {
		s.Rights = g.operates(id).names()
	}
	return g.setSession(w, r, s, id.until)
}

// signOut ends a session, also for who has a copy of its cookie.
func (g *Guard) signOut(w http.ResponseWriter, r *http.Request) {
	if id, err := g.bySession(r); id != nil && err == nil {
		g.signedOut.add(id.session.ID, id.session.Began.Time().Add(sessionLife), g.o.Now())
		g.tell(r, id, "sign out", "allowed", http.StatusNoContent)
	}
	g.setCookie(w, r, "", -1)
}

func (g *Guard) refuseSession(w http.ResponseWriter, r *http.Request, id *Identity, err error) {
	e := &registry.Error{Status: http.StatusForbidden, Code: registry.CodeDenied, Message: err.Error()}
	var d *denied
	switch {
	case !errors.As(err, &d):
		e.Status, e.Code = http.StatusInternalServerError, registry.CodeUnknown
		d = &denied{reason: "failed"}
	case d.retry > 0:
		e.Status, e.Code, e.RetryAfter = http.StatusTooManyRequests, registry.CodeTooManyRequests, d.retry
	case d != errNoRules && d != errForeignPage && d != errNoConsole:
		e.Status, e.Code = http.StatusUnauthorized, registry.CodeUnauthorized
	}
	registry.WriteError(w, r, e)
	if d.user != "" {
		id = &Identity{User: d.user, Method: id.Method}
	}
	g.tell(r, id, "sign in", d.reason, e.Status)
}

// tell puts a sign-in or its end into the audit log.
func (g *Guard) tell(r *http.Request, id *Identity, what, outcome string, status int) {
	if g.o.Audit != nil {
		g.o.Audit(audit.Event{User: id.User, Auth: string(id.Method), Client: client(r).String(), Action: "login", Method: r.Method,
			Reference: SessionPath, Outcome: outcome, Status: status, Note: what})
	}
}

// BySession tells whether whoever sent the request has a session: a person at a
// page, which looks again and again.
func BySession(ctx context.Context) bool {
	id, ok := FromContext(ctx)
	return ok && id.session != nil
}
