package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Space is what a seeder is told about how long content is kept, and how much
// of it (docs/space.md).
type Space struct {
	Quotas []string `name:"quota-for" group:"Space" help:"bytes that the content of repositories may take, as PREFIX=SIZE: docker.io/library=50GiB of an upstream, team=10GiB of local ones; a repository counts for each prefix that it lies under; repeatable"`
}

// Quota bounds the content of the repositories below a prefix.
type Quota struct {
	// Upstream is canonical; for local repositories it is the first --local-name.
	Upstream string
	Prefix   string // whole path components; "" is every repository of Upstream
	Local    bool   // what is pushed here, as opposed to what is fetched
	Size     ByteSize
}

// Covers tells whether a repository counts for the quota.
func (q Quota) Covers(n registry.Name) bool {
	rest, below := strings.CutPrefix(n.Repository, q.Prefix)
	return n.Upstream == q.Upstream && below && (q.Prefix == "" || rest == "" || rest[0] == '/')
}

// String is the prefix, as rules and logs name repositories.
func (q Quota) String() string {
	return strings.TrimSuffix(q.Upstream+"/"+q.Prefix, "/")
}

// PrefixQuotas reads --quota-for. A prefix may begin with the name of an
// upstream or of this registry; one that does not is of local repositories.
func (c *Seeder) PrefixQuotas() ([]Quota, error) {
	var list []Quota
	for _, s := range c.Quotas {
		prefix, size, ok := strings.Cut(s, "=")
		if !ok || prefix == "" {
			return nil, fmt.Errorf("%q: want PREFIX=SIZE, like team=10GiB", s)
		}
		q := Quota{}
		var err error
		if q.Size, err = ParseByteSize(size); err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		if q.Size == 0 {
			return nil, fmt.Errorf("%q: nothing fits into 0 bytes", s)
		}
		q.Upstream, q.Prefix, q.Local = c.splitPrefix(strings.TrimSuffix(strings.TrimRight(prefix, "*"), "/"))
		if q.Prefix != "" && !registry.ValidRepository(q.Prefix) {
			return nil, fmt.Errorf("%q: %q is no prefix of repositories", s, prefix)
		}
		if q.Local && !c.hasLocal(q.Prefix) {
			return nil, fmt.Errorf("%q: begins with no upstream, and no --local repository is below it", s)
		}
		if slices.ContainsFunc(list, func(o Quota) bool { return o.String() == q.String() }) {
			return nil, fmt.Errorf("%q: there is a quota for %s before", s, q)
		}
		list = append(list, q)
	}
	return list, nil
}

// splitPrefix tells of whom a prefix is.
func (c *Seeder) splitPrefix(s string) (upstream, prefix string, local bool) {
	host, rest, _ := strings.Cut(s, "/")
	name := registry.CanonicalUpstream(host)
	for _, u := range c.Upstreams {
		if u.Name == name {
			return name, rest, false
		}
	}
	own := registry.CanonicalUpstream(c.LocalNames[0])
	for _, n := range c.LocalNames {
		if registry.CanonicalUpstream(n) == name {
			return own, rest, true
		}
	}
	return own, s, true
}

// hasLocal tells whether local repositories may be within a prefix.
func (c *Seeder) hasLocal(prefix string) bool {
	within := func(a, b string) bool { return strings.HasPrefix(a+"/", b+"/") }
	return slices.ContainsFunc(c.LocalRepositories, func(p string) bool {
		p = strings.TrimSuffix(strings.TrimSuffix(p, "/*"), "/")
		return p == "*" || prefix == "" || within(p, prefix) || within(prefix, p)
	})
}

func (c *Seeder) spaceProblems() []Problem {
	if len(c.LocalNames) == 0 {
		return nil // told elsewhere
	}
	var ps []Problem
	if _, err := c.PrefixQuotas(); err != nil {
		ps = append(ps, Problem{Where: "--quota-for", What: err.Error(), Fix: "docs/space.md tells how quotas are written"})
	}
	return ps
}
