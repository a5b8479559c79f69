package auth

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/netip"
	"strings"

	"go.uber.org/zap"
)

// identify finds out who sent a request. Without credentials that is
// anonymous; with ones that are not good it is an error, a *denied.
func (g *Guard) identify(r *http.Request) (*Identity, error) {
	scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	value = strings.TrimSpace(value)
	switch {
	case g.open:
		return anonymous, nil
	case scheme == "":
		return byCertificate(r), nil
	case ok && strings.EqualFold(scheme, "Bearer"):
		return g.byToken(r.Context(), value)
	case ok && strings.EqualFold(scheme, "Basic"):
		user, password, ok := basic(value)
		if !ok {
			return anonymous, errBadLogin
		}
		return g.login(r.Context(), client(r), user, password)
	}
	return anonymous, errNoCredentials
}

// byCertificate takes the name in a client's certificate, which the TLS layer
// has checked; anonymous where none was shown.
func byCertificate(r *http.Request) *Identity {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return anonymous
	}
	subject := r.TLS.VerifiedChains[0][0].Subject
	if subject.CommonName == "" {
		return anonymous
	}
	return &Identity{User: "cert:" + subject.CommonName, Method: Certificate}
}

// basic reads the value of RFC 7617.
func basic(value string) (user, password string, ok bool) {
	text, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}

// login checks a user name and a password. The password may be a token of an
// external issuer: then that says who it is, whatever the user name.
func (g *Guard) login(ctx context.Context, from netip.Addr, user, password string) (*Identity, error) {
	if name, ok := issuerOf(password); ok && g.issuers[name] != nil {
		return g.byIssuer(ctx, name, password)
	}
	if g.users == nil || user == "" || strings.ContainsRune(user, 0) {
		return anonymous, errBadLogin
	}
	var wait = g.lockout.wait(user, from)
	v := locked
	if wait <= 0 {
		v = g.users.check(ctx, user, password, func() bool {
			wait = g.lockout.wait(user, from)
			return wait <= 0
		})
	}
	switch v {
	case locked:
		g.metrics.refused.Inc()
		return anonymous, &denied{user: known(g.users, user), reason: "locked", message: "too many failed logins; try again later", retry: wait}
	case busy:
		return anonymous, errNotNow
	case wrong:
		if g.lockout.note(user, from, false) {
			g.metrics.lockouts.Inc()
			g.o.Log.Warn("too many failed logins: an account is locked for an address",
				zap.String("user", known(g.users, user)), zap.Stringer("client", from), zap.Duration("for", g.lockout.wait(user, from)))
		}
		return anonymous, &denied{user: known(g.users, user), reason: errBadLogin.reason, message: errBadLogin.message}
	}
	g.lockout.note(user, from, true)
	return &Identity{User: user, Groups: g.o.Groups[user], Method: Password}, nil
}

// known is a user's name, or a word in its place: people type their password
// where their name belongs.
func known(h *htpasswd, user string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users[user] == nil {
		return "(unknown)"
	}
	return user
}
