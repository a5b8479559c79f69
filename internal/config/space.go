package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/samara-p2p/samara/internal/retention"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Space is what a seeder is told about how long content is kept, and how much
// of it (docs/space.md).
type Space struct {
	Retention    string        `name:"retention" group:"Space" help:"YAML file with rules about which tags of local repositories stay (docs/space.md); by itself all of them do"`
	CollectEvery time.Duration `name:"collect-every" group:"Space" help:"how often local repositories are rid of what retention does not keep and of what nothing needs; 0 only when it is asked for"`
	CollectLease time.Duration `name:"collect-lease" group:"Space" help:"how long what nothing needs is safe after it was last pushed, pulled or asked for"`
	TrashPeriod  time.Duration `name:"trash-period" group:"Space" help:"how long what was deleted from local repositories, by a client or by rules, can be restored, and takes room; 0 not at all"`

	Quotas []string `name:"quota-for" group:"Space" help:"bytes that the content of repositories may take, as PREFIX=SIZE: docker.io/library=50GiB of an upstream, team=10GiB of local ones; a repository counts for each prefix that it lies under; repeatable"`
}

func defaultSpace() Space {
	return Space{CollectEvery: 6 * time.Hour, CollectLease: 24 * time.Hour, TrashPeriod: 72 * time.Hour}
}

// minCollectLease leaves clients the time between a look at a blob and the push
// of the manifest that names it.
const minCollectLease = 10 * time.Minute

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

// RetentionRules reads --retention; there are none without it. Errors name the
// line.
func (c *Seeder) RetentionRules() (retention.Rules, error) {
	if c.Retention == "" {
		return nil, nil
	}
	return retention.Load(c.Retention, c.LocalNames)
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

func (c *Space) spaceWarnings(locals []string) []Problem {
	if c.Retention != "" && len(locals) == 0 {
		return []Problem{{Where: "--retention", What: "is about local repositories, and there are none", Fix: "give --local PREFIX"}}
	}
	return nil
}

func (c *Seeder) spaceProblems() []Problem {
	if len(c.LocalNames) == 0 {
		return nil // told elsewhere
	}
	var ps []Problem
	if _, err := c.PrefixQuotas(); err != nil {
		ps = append(ps, Problem{Where: "--quota-for", What: err.Error(), Fix: "docs/space.md tells how quotas are written"})
	}
	if _, err := c.RetentionRules(); err != nil {
		ps = append(ps, Problem{Where: "--retention", What: err.Error(), Fix: "docs/space.md tells how rules are written"})
	}
	if c.CollectEvery < 0 {
		ps = append(ps, Problem{Where: "--collect-every", What: fmt.Sprintf("%v is negative", c.CollectEvery), Fix: "give a duration like 6h, or 0"})
	}
	if c.CollectLease < minCollectLease {
		ps = append(ps, Problem{Where: "--collect-lease", What: fmt.Sprintf("%v would take blobs away from pushes under way", c.CollectLease), Fix: fmt.Sprintf("give %v or more", minCollectLease)})
	}
	if c.TrashPeriod < 0 {
		ps = append(ps, Problem{Where: "--trash-period", What: fmt.Sprintf("%v is negative", c.TrashPeriod), Fix: "give a duration like 72h, or 0"})
	}
	return ps
}
