package upstreamtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// tokenPath is on the registry's own host, as many small registries have it.
const tokenPath = "/token"

// Auth says what the registry wants from its clients.
type Auth struct {
	Bearer             bool   // a token from the token page; false: Basic
	Username, Password string // what Basic, or the token page, asks for; "" = anybody gets a token
	TokenUses          int    // a token is good for this many requests; 0 = for ever
	ExpiresIn          int    // what the token page says, in seconds; 0 = says nothing
	ForbidAll          bool   // 403 even to those it knows
	// Private repositories are only for Username. With Bearer anybody gets a token, one that opens none of them
	// for whoever shows nothing; nil: all are, and nobody else gets one.
	Private []string
	// Token is what tokens begin with; by itself "token-".
	Token string
}

type authState struct {
	Auth
	tokens map[string]*token
	issued int
}

type token struct {
	scopes []string
	uses   int
}

// SetAuth makes the registry ask for credentials. nil: it asks for none.
func (s *Server) SetAuth(a *Auth) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a == nil {
		s.auth = nil
		return
	}
	s.auth = &authState{Auth: *a, tokens: map[string]*token{}}
}

// TokensIssued is the number of tokens given out since SetAuth.
func (s *Server) TokensIssued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.auth == nil {
		return 0
	}
	return s.auth.issued
}

// RevokeTokens makes every token given out so far worthless.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.auth != nil {
		clear(s.auth.tokens)
	}
}

func (s *Server) authorized(w http.ResponseWriter, r *http.Request, repo string) bool {
	s.mu.Lock()
	a := s.auth
	ok := a == nil || a.admits(r, repo) || a.Private != nil && !a.Bearer && repo != "" && !slices.Contains(a.Private, repo)
	s.mu.Unlock()
	switch {
	case a == nil:
		return true
	case !ok && a.Bearer:
		c := fmt.Sprintf(`Bearer realm="http://%s%s",service="test"`, r.Host, tokenPath)
		if r.TLS != nil {
			c = strings.Replace(c, "http://", "https://", 1)
		}
		if repo != "" {
			c += fmt.Sprintf(`,scope="repository:%s:pull"`, repo)
		}
		w.Header().Set("WWW-Authenticate", c)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	case !ok:
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	case a.ForbidAll && repo != "":
		refuse(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
		return false
	}
	return true
}

// admits is called with the server locked.
func (a *authState) admits(r *http.Request, repo string) bool {
	if !a.Bearer {
		u, p, ok := r.BasicAuth()
		return ok && u == a.Username && p == a.Password
	}
	value, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	t := a.tokens[value]
	if !ok || t == nil || a.TokenUses > 0 && t.uses >= a.TokenUses {
		return false
	}
	if repo != "" {
		want, found := "repository:"+repo+":pull", false
		for _, s := range t.scopes {
			found = found || s == want
		}
		if !found {
			return false
		}
	}
	t.uses++
	return true
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	if f := s.fault(r.Method, "token"); f != nil && f.refuse(s, w, r) {
		return
	}
	u, p, _ := r.BasicAuth()
	s.mu.Lock()
	a := s.auth
	if a == nil || !a.Bearer {
		s.mu.Unlock()
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "no tokens here")
		return
	}
	known := a.Username == "" || u == a.Username && p == a.Password
	if !known && (a.Private == nil || u != "") {
		s.mu.Unlock()
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong user name or password")
		return
	}
	a.issued++
	begin := a.Token
	if begin == "" {
		begin = "token-"
	}
	value := begin + strconv.Itoa(a.issued)
	scopes := slices.DeleteFunc(r.URL.Query()["scope"], func(scope string) bool {
		return !known && slices.ContainsFunc(a.Private, func(repo string) bool { return strings.HasPrefix(scope, "repository:"+repo+":") })
	})
	a.tokens[value] = &token{scopes: scopes}
	answer := map[string]any{"token": value}
	if a.ExpiresIn > 0 {
		answer["expires_in"] = a.ExpiresIn
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}
