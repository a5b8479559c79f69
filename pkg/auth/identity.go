package auth

import (
	"context"
	"slices"
	"time"
)

// Method is how an identity was proved. Its values are metric labels and words
// of the audit log.
type Method string

// The methods.
const (
	Anonymous Method = "anonymous" // not at all
	Password  Method = "password"  // htpasswd
	Token     Method = "token"     // a token of the seeder's own
	Issuer    Method = "issuer"    // a token of an external issuer
	Peer      Method = "peer"      // a token made with the swarm key

	Certificate Method = "certificate" // of a TLS client
	Session     Method = "session"     // of a browser, see Sessions
)

// Identity is who asks. Users and groups of an external issuer begin with the
// issuer's name and a colon, which no user of an htpasswd file has: two sources
// cannot speak for the same user.
type Identity struct {
	User   string // "" for anonymous
	Groups []string
	Claims map[string][]string // "github:repository": what a token says, as text
	Method Method

	until time.Time // when what proved it ends; zero where it does not

	// session is what a session was begun with; nil for none. It is good for the
	// admin API only.
	session *sessionClaims

	// grants is all that a token with an access claim may be used for, and
	// rules do not count; nil where they do.
	grants *grants
}

// anonymous is who shows nothing.
var anonymous = &Identity{Method: Anonymous}

// grants is what a token with an access claim may be used for.
type grants struct {
	repositories map[string]Actions // by canonical name
	catalog      *view              // nil: no catalog
}

// view is what the catalog shows: what is both listed and may be pulled.
type view struct{ listed, pulled []pattern }

func (v *view) shows(repository string) bool {
	match := func(p pattern) bool { return p.match(repository) }
	return slices.ContainsFunc(v.listed, match) && slices.ContainsFunc(v.pulled, match)
}

type contextKey struct{}

// decided is what a request's context knows of the Guard's decision.
type decided struct {
	guard *Guard
	id    *Identity
}

// FromContext is who sent the request, as the Guard found out; false where no
// Guard stands before the handler.
func FromContext(ctx context.Context) (*Identity, bool) {
	d, ok := ctx.Value(contextKey{}).(decided)
	return d.id, ok
}

// Administers tells whether whoever sent the request may do more than look by
// the admin API. Without a Guard everybody may.
func Administers(ctx context.Context) bool {
	d, ok := ctx.Value(contextKey{}).(decided)
	return !ok || d.guard.operates(d.id).has(Admin)
}

// Listed tells whether the catalog may show a repository (by its canonical
// name) to whoever sent the request. Without a Guard everything is shown.
func Listed(ctx context.Context, repository string) bool {
	d, ok := ctx.Value(contextKey{}).(decided)
	if !ok {
		return true
	}
	return d.guard.lists(d.id, repository)
}

// Confined tells whether whoever sent the request may pull some repositories
// only, so that it matters which one content belongs to.
func Confined(ctx context.Context) bool {
	d, ok := ctx.Value(contextKey{}).(decided)
	return ok && !d.guard.open && (d.id.grants != nil || !d.guard.mayPullAll(d.id))
}

// Public tells whether a repository (by its canonical name) may be pulled by
// whoever shows nothing. Without a Guard every one may.
func Public(ctx context.Context, repository string) bool {
	d, ok := ctx.Value(contextKey{}).(decided)
	return !ok || d.guard.may(anonymous, Pull, repository)
}
