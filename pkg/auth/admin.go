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
var errNoRules = &denied{reason: "denied", message: "the admin API is not open to the network: a rule has to give somebody the admin action (docs/admin-api.md)"}

// Admin lets those requests through to next, the admin API, that come from whom a
// rule gives the admin action. They log in with a user name and a password, a
// token of an external issuer, or a certificate: a token that was made for some
// repositories is none for this.
func (g *Guard) Admin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := g.identify(r)
		if err == nil {
			err = g.decideAdmin(id)
		}
		g.metrics.request(id, err)
		if g.o.Identified != nil {
			g.o.Identified(r, id)
		}
		if err == nil {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, decided{g, id})))
			return
		}
		g.refuseAdmin(w, r, id, err)
	})
}

func (g *Guard) decideAdmin(id *Identity) error {
	switch {
	case g.open:
		return errNoRules
	case id.grants == nil && slices.ContainsFunc(g.o.Rules.patterns(id, Admin), func(p pattern) bool { return p.text == "**" }):
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
	case d != errInsufficient && d != errNoRules:
		e.Status, e.Code = http.StatusUnauthorized, registry.CodeUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="samara admin", charset="UTF-8"`)
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
