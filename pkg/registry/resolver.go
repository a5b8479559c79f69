package registry

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// DockerHub is the canonical name of Docker Hub.
const DockerHub = "docker.io"

// aliases are the other names under which clients know Docker Hub: regctl
// sends ns=registry-1.docker.io, nydus index.docker.io (contract 20).
var aliases = map[string]string{
	"index.docker.io":      DockerHub,
	"registry-1.docker.io": DockerHub,
}

// CanonicalUpstream brings an upstream's name into the one form used
// everywhere: lower case, no trailing dot, no ":443", aliases resolved. It
// does not validate.
func CanonicalUpstream(s string) string {
	s = strings.ToLower(s)
	s = strings.TrimSuffix(s, ":443")
	s = strings.TrimSuffix(s, ".")
	if c, ok := aliases[s]; ok {
		return c
	}
	return s
}

// Resolver maps what a client asked for to one of the configured upstreams, or
// to a local repository. It is safe for concurrent use.
type Resolver struct {
	table atomic.Pointer[table]
	local Local
}

// table is one set of upstreams; it never changes.
type table struct {
	names []string // canonical, sorted
	def   string
}

// Local says which repositories are held here and nowhere upstream.
type Local struct {
	// Names are what clients call this registry, as upstreams are named. The
	// first is the Upstream of every local Name.
	Names []string
	// Prefixes of the repositories: "team" means team and all below it, "*"
	// any. A repository is local when a prefix matches and the request names
	// this registry, or nothing.
	Prefixes []string
}

// SetLocal makes repositories local; call it before the Resolver is used.
// Names are made canonical.
func (r *Resolver) SetLocal(l Local) error {
	set := Local{Prefixes: slices.Clone(l.Prefixes)}
	for _, n := range l.Names {
		c := CanonicalUpstream(n)
		if !ValidUpstream(c) {
			return fmt.Errorf("local registry name %q: not a host name with an optional port", n)
		}
		if slices.Contains(r.table.Load().names, c) {
			return fmt.Errorf("local registry name %q is the name of an upstream", n)
		}
		set.Names = append(set.Names, c)
	}
	for i, p := range set.Prefixes {
		p = strings.TrimSuffix(strings.TrimSuffix(p, "/*"), "/")
		if p != "*" && !ValidRepository(p) {
			return fmt.Errorf("prefix %q of local repositories: want a repository name, or * for all", l.Prefixes[i])
		}
		if _, _, host := cutHost(p + "/x"); host {
			return fmt.Errorf("prefix %q of local repositories begins like a host name, and would be taken for one", l.Prefixes[i])
		}
		set.Prefixes[i] = p
	}
	if len(set.Prefixes) > 0 && len(set.Names) == 0 {
		return fmt.Errorf("local repositories need a name of this registry")
	}
	r.local = set
	return nil
}

// IsLocal tells whether n is the name of a local repository.
func (r *Resolver) IsLocal(n Name) bool {
	return len(r.local.Names) > 0 && n.Upstream == r.local.Names[0] && r.local.matches(n.Repository)
}

func (l *Local) matches(repo string) bool {
	for _, p := range l.Prefixes {
		if p == "*" || repo == p || strings.HasPrefix(repo, p) && repo[len(p)] == '/' {
			return true
		}
	}
	return false
}

// resolve is the local repository meant, by the rules of Resolver.Resolve; ok
// is false where none is.
func (l *Local) resolve(path, ns string) (name Name, named, ok bool, err error) {
	if len(l.Prefixes) == 0 {
		return Name{}, false, false, nil
	}
	up := CanonicalUpstream(ns)
	if host, rest, hasHost := cutHost(path); hasHost && (ns == "" || CanonicalUpstream(host) == up) {
		up, path = CanonicalUpstream(host), rest
	}
	switch {
	case up == "" && !l.matches(path):
		return Name{}, false, false, nil
	case up != "" && !slices.Contains(l.Names, up):
		return Name{}, false, false, nil
	}
	name, err = newName(l.Names[0], path)
	if err == nil && !l.matches(path) {
		err = &Error{Status: 404, Code: CodeNameUnknown, Message: fmt.Sprintf("repository %q is not kept here; those below %s are", short(path), strings.Join(l.Prefixes, ", "))}
	}
	return name, up != "", true, err
}

// NewResolver knows the given upstreams. def is the one meant when a request
// names none; it must be among names, or empty when every request has to name
// one. Names are made canonical; two that become the same are an error.
func NewResolver(names []string, def string) (*Resolver, error) {
	r := &Resolver{}
	if err := r.Update(names, def); err != nil {
		return nil, err
	}
	return r, nil
}

// Update replaces the set of upstreams, by the rules of NewResolver: a peer
// learns it from its seeder. On an error nothing changes.
func (r *Resolver) Update(names []string, def string) error {
	t, err := newTable(names, def)
	if err != nil {
		return err
	}
	r.table.Store(t)
	return nil
}

func newTable(names []string, def string) (*table, error) {
	r := &table{}
	for _, n := range names {
		c := CanonicalUpstream(n)
		if !ValidUpstream(c) {
			return nil, fmt.Errorf("upstream name %q: not a host name with an optional port", n)
		}
		if slices.Contains(r.names, c) {
			return nil, fmt.Errorf("upstream name %q is given twice (aliases, case and :443 do not count)", c)
		}
		r.names = append(r.names, c)
	}
	slices.Sort(r.names)
	if def != "" {
		r.def = CanonicalUpstream(def)
		if !slices.Contains(r.names, r.def) {
			return nil, fmt.Errorf("default upstream %q is not among the upstreams: %s", def, strings.Join(r.names, ", "))
		}
	}
	return r, nil
}

// Names are the canonical names of the upstreams, sorted.
func (r *Resolver) Names() []string { return slices.Clone(r.table.Load().names) }

// Default is the upstream of requests that name none; may be empty.
func (r *Resolver) Default() string { return r.table.Load().def }

// Resolve finds the upstream and repository meant by the repository part of a
// /v2/ path and the value of the ns query parameter (contract 20): ns first,
// then a host-shaped first path component, then the default. ns and the
// component are looked up among the configured names and never dialled
// (contract 21).
//
// A first component counts as host-shaped when it contains '.' or ':' or is
// "localhost"; a bare word never does, even if an upstream has that name,
// because "lab/app" must keep meaning docker.io/lab/app for clients that name
// no upstream.
//
// A request that names no upstream, or this registry itself, means a local
// repository where SetLocal says so.
//
// Errors are *Error: NAME_UNKNOWN (404) for an upstream that is not
// configured, NAME_INVALID (400) for a repository outside the grammar.
func (r *Resolver) Resolve(path, ns string) (Name, error) {
	name, _, err := r.resolve(path, ns)
	return name, err
}

func (r *Resolver) resolve(path, ns string) (name Name, named bool, err error) {
	if name, named, ok, err := r.local.resolve(path, ns); ok {
		return name, named, err
	}
	return r.table.Load().resolve(path, ns)
}

// resolve also tells whether the client named the upstream itself.
func (r *table) resolve(path, ns string) (name Name, named bool, err error) {
	host, rest, hasHost := cutHost(path)
	if ns != "" {
		up := CanonicalUpstream(ns)
		if !slices.Contains(r.names, up) {
			return Name{}, true, r.upstreamUnknown(ns)
		}
		// A mirror set up with a path prefix sends both (BuildKit's
		// mirrors = ["host:port/docker.io"]).
		if hasHost && CanonicalUpstream(host) == up {
			path = rest
		}
		name, err = newName(up, path)
		return name, true, err
	}
	if hasHost {
		up := CanonicalUpstream(host)
		if !slices.Contains(r.names, up) {
			return Name{}, true, r.upstreamUnknown(host)
		}
		name, err = newName(up, rest)
		return name, true, err
	}
	if r.def == "" {
		return Name{}, false, &Error{Status: 404, Code: CodeNameUnknown,
			Message: fmt.Sprintf("%q names no upstream and there is no default; name one of %s with ?ns= or as the first path component", short(path), r.known())}
	}
	name, err = newName(r.def, path)
	return name, false, err
}

func (r *table) upstreamUnknown(s string) *Error {
	return &Error{Status: 404, Code: CodeNameUnknown,
		Message: fmt.Sprintf("upstream %q is not configured here; known are %s", short(s), r.known())}
}

func (r *table) known() string {
	if len(r.names) == 0 {
		return "none"
	}
	return strings.Join(r.names, ", ")
}

// cutHost splits a host-shaped first component off a repository path, by the
// rule of docker's reference grammar.
func cutHost(path string) (host, rest string, ok bool) {
	host, rest, ok = strings.Cut(path, "/")
	if !ok || rest == "" {
		return "", path, false
	}
	if host == "localhost" || strings.ContainsAny(host, ".:") {
		return host, rest, true
	}
	return "", path, false
}
