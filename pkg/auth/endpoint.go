package auth

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

const (
	maxForm   = 64 << 10
	maxScopes = 100
	formTime  = 10 * time.Second // to send a form
)

// scope is what a token is asked for.
type scope struct {
	catalog bool
	name    string // of a repository, as the client calls it
	actions Actions
}

// parseScopes reads scope parameters: "repository:NAME:pull,push", also several
// with spaces between them. What is not understood is left out, as the
// specification has it: the token is then good for less.
func parseScopes(values []string) []scope {
	var list []scope
	for _, s := range strings.Fields(strings.Join(values, " ")) {
		kind, rest, _ := strings.Cut(s, ":")
		i := strings.LastIndexByte(rest, ':')
		if i < 0 || len(list) == maxScopes {
			continue
		}
		name, actions := rest[:i], strings.Split(rest[i+1:], ",")
		kind, _, _ = strings.Cut(kind, "(") // a class, as in "repository(plugin)"
		switch {
		case kind == "registry" && name == "catalog":
			list = append(list, scope{catalog: true})
		case kind == "repository":
			a, _ := parseActions(actions)
			for _, one := range actions {
				if one == "*" {
					a |= Pull | Push | Delete
				}
			}
			list = append(list, scope{name: name, actions: a &^ (Catalog | Admin | Watch)}) // which are of no repository
		}
	}
	return list
}

// answer is of both forms of the protocol.
type answer struct {
	Token       string `json:"token,omitempty"`
	AccessToken string `json:"access_token"`
	Scope       string `json:"scope,omitempty"`
	ExpiresIn   int    `json:"expires_in"`
	IssuedAt    string `json:"issued_at"`
}

// TokenHandler gives tokens, at TokenPath: by GET with Basic credentials or
// none, and by POST of an OAuth 2 form with a password. What may be done with
// a token is the part of what was asked for that rules allow; that may be
// nothing.
func (g *Guard) TokenHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if g.open || g.o.Realm != "" {
			registry.WriteError(w, r, &registry.Error{Status: http.StatusNotFound, Code: registry.CodeUnsupported, Message: "no tokens are given here"})
			return
		}
		switch r.Method {
		case http.MethodGet:
			g.tokenByGet(w, r)
		case http.MethodPost:
			g.tokenByPost(w, r)
		default:
			w.Header().Set("Allow", "GET, POST")
			registry.WriteError(w, r, &registry.Error{Status: http.StatusMethodNotAllowed, Code: registry.CodeUnsupported, Message: "ask with GET or POST"})
		}
	})
}

// tokenByGet is distribution's "Token Authentication Specification".
func (g *Guard) tokenByGet(w http.ResponseWriter, r *http.Request) {
	if bearer(r) { // a token does not make another that lives longer
		g.refuseToken(w, r, errBadLogin)
		return
	}
	id, err := g.identify(r)
	if err != nil {
		g.refuseToken(w, r, err)
		return
	}
	g.give(w, r, id, r.URL.Query()["scope"], false)
}

// tokenByPost is distribution's "Oauth2 Token Authentication", which docker and
// containerd try first where they have a password.
func (g *Guard) tokenByPost(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(formTime))
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "the form cannot be read")
		return
	}
	f := r.PostForm
	switch grant := f.Get("grant_type"); grant {
	case "password":
	case "refresh_token":
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "no refresh tokens are given here; send the password")
		return
	default:
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type must be password")
		return
	}
	id, err := g.login(r.Context(), client(r), f.Get("username"), f.Get("password"))
	if err != nil {
		g.refuseToken(w, r, err)
		return
	}
	g.give(w, r, id, f["scope"], true)
}

// give answers with a token.
func (g *Guard) give(w http.ResponseWriter, r *http.Request, id *Identity, scopes []string, oauth bool) {
	if s := r.FormValue("service"); s != "" && s != g.o.Service {
		registry.WriteError(w, r, &registry.Error{Status: http.StatusBadRequest, Code: registry.CodeUnsupported,
			Message: "tokens are for the service " + g.o.Service + " only"})
		return
	}
	token, granted, err := g.issue(id, parseScopes(scopes))
	if err != nil {
		g.o.Log.Error("no token can be made", zap.Error(err))
		registry.WriteError(w, r, &registry.Error{Status: http.StatusInternalServerError, Code: registry.CodeUnknown, Message: "no token can be made; the log has its cause"})
		return
	}
	g.metrics.tokens.WithLabelValues(string(id.Method), "issued").Inc()
	g.recordLogin(r, id, nil, scopeText(granted))
	a := answer{AccessToken: token, ExpiresIn: int(g.lifetime(id) / time.Second), IssuedAt: g.o.Now().UTC().Format(time.RFC3339)}
	if oauth {
		a.Scope = scopeText(granted)
	} else {
		a.Token = token
	}
	writeJSON(w, http.StatusOK, a)
}

func scopeText(granted []access) string {
	list := make([]string, len(granted))
	for i, a := range granted {
		list[i] = a.Type + ":" + a.Name + ":" + strings.Join(a.Actions, ",")
	}
	return strings.Join(list, " ")
}

// refuseToken answers a login that failed.
func (g *Guard) refuseToken(w http.ResponseWriter, r *http.Request, err error) {
	d, _ := err.(*denied) //nolint:errorlint // identify and login return nothing else
	g.metrics.tokens.WithLabelValues(string(Anonymous), d.reason).Inc()
	g.recordLogin(r, anonymous, err, "")
	e := &registry.Error{Status: http.StatusUnauthorized, Code: registry.CodeUnauthorized, Message: d.message}
	if d.retry > 0 {
		e.Status, e.Code, e.RetryAfter = http.StatusTooManyRequests, registry.CodeTooManyRequests, d.retry
	} else {
		w.Header().Set("WWW-Authenticate", "Basic "+quoted("realm", g.o.Service))
	}
	registry.WriteError(w, r, e)
}

// oauthError is RFC 6749, 5.2.
func oauthError(w http.ResponseWriter, status int, code, description string) {
	writeJSON(w, status, map[string]string{"error": code, "error_description": description})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // texts and numbers always marshal
		body = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone; nobody is left to tell
}
