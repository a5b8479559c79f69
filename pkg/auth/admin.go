package auth

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/pkg/registry"
)

// errNoRules says that an open seeder lets nobody administrate it from elsewhere.
var errNoRules = &denied{reason: "denied", message: "the admin API is not open to the network: a rule has to give somebody the admin or watch action (docs/admin-api.md)"}

// errForeignPage says that a browser was led here.
var errForeignPage = &denied{reason: "denied", message: "a page of another site sent this"}

// crossOrigin refuses what a page of another site makes a browser send to change
// something: with a password that the browser remembers, or a certificate.
var crossOrigin = http.NewCrossOriginProtection()

// Admin lets those requests through to next, the admin API, that come from whom a
// rule gives the admin action, and looks of those whom one gives watch. They log
// in with a user name and a password, a token of an external issuer, a
// certificate, or have a session (Sessions): a token that was made for some
// repositories is none for this.
func (g *Guard) Admin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := g.operator(r)
		if err == nil {
			err = g.decideAdmin(id, r)
		}
		g.metrics.request(id, err)
		if g.o.Identified != nil {
			g.o.Identified(r, id)
		}
		if err == nil {
			g.renew(w, r, id)
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, decided{g, id})))
			return
		}
		g.refuseAdmin(w, r, id, err)
	})
}

// operator finds out who sent a request to the admin API: a session counts where
// no other proof is shown.
func (g *Guard) operator(r *http.Request) (*Identity, error) {
	if !g.open && r.Header.Get("Authorization") == "" {
		if id, err := g.bySession(r); id != nil || err != nil {
			return id, err
		}
	}
	return g.identify(r)
}

// operates is what an identity may do by the admin API: Admin, Watch, or nothing.
func (g *Guard) operates(id *Identity) Actions {
	var a Actions
	switch {
	case g.open, id.grants != nil:
	case id.session != nil && id.session.Rights != nil:
		a, _ = parseActions(id.session.Rights)
	default:
		for _, action := range []Actions{Admin, Watch} {
			if slices.ContainsFunc(g.o.Rules.patterns(id, action), func(p pattern) bool { return p.text == "**" }) {
				a |= action
			}
		}
	}
	return a & (Admin | Watch)
}

func (g *Guard) decideAdmin(id *Identity, r *http.Request) error {
	may := g.operates(id)
	looks := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case g.open:
		return errNoRules
	case crossOrigin.Check(r) != nil:
		return errForeignPage
	case may.has(Admin), may.has(Watch) && looks:
		return nil
	case id == anonymous:
		return errNoCredentials
	}
	return errInsufficient
}

func (g *Guard) refuseAdmin(w http.ResponseWriter, r *http.Request, id *Identity, err error) {
	var d *denied
	errors.As(err, &d)
	e := &registry.Error{Status: http.StatusForbidden, Code: registry.CodeDenied, Message: err.Error()}
	switch {
	case d.retry > 0:
		e.Status, e.Code, e.RetryAfter = http.StatusTooManyRequests, registry.CodeTooManyRequests, d.retry
	case d != errInsufficient && d != errNoRules && d != errForeignPage:
		e.Status, e.Code = http.StatusUnauthorized, registry.CodeUnauthorized
		if r.Header.Get(sessionHeader) == "" { // a browser would ask for a password, and keep it
			w.Header().Set("WWW-Authenticate", `Basic realm="samara admin", charset="UTF-8"`)
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	if r.ContentLength != 0 { // nobody reads what is being sent
		w.Header().Set("Connection", "close")
	}
	registry.WriteError(w, r, e)
	if g.o.Audit == nil {
		return
	}
	user := id.User
	if d.user != "" {
		user = d.user
	}
	g.o.Audit(audit.Event{User: user, Auth: string(id.Method), Client: client(r).String(), Action: "admin", Method: r.Method,
		Reference: r.URL.Path, Outcome: d.reason, Status: e.Status})
}
