package retention

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"time"
)

// Rules are the policies of a file, in its order.
type Rules []Policy

// Policy is what holds for some repositories.
type Policy struct {
	repositories []pattern
	// Protect are patterns of tags that are always kept.
	Protect []string
	// Keep are what else is kept; nil keeps every tag.
	Keep []Keep
	// Untagged is how long a manifest that no tag leads to is kept after its last
	// use; below 0 means for ever.
	Untagged time.Duration
}

// Keep keeps tags that match a pattern and fulfil any of its criteria; one that
// has none keeps all that match.
type Keep struct {
	Tags   []string // patterns; none: every tag
	Newest int      // as many as were pushed last
	Pushed time.Duration
	Pulled time.Duration
}

// Tag is one that is judged.
type Tag struct {
	Name   string
	Pushed time.Time
	Pulled time.Time // the last time; that of the push where there was none
}

// For is the policy of a repository, the first that names it; nil for none.
func (r Rules) For(repository string) *Policy {
	for i := range r {
		if slices.ContainsFunc(r[i].repositories, func(p pattern) bool { return p.match(repository) }) {
			return &r[i]
		}
	}
	return nil
}

// Judge says of each tag why it is kept, in the order given; "" where it is not.
func (p *Policy) Judge(now time.Time, tags []Tag) []string {
	why := make([]string, len(tags))
	for i, t := range tags {
		switch {
		case len(p.Keep) == 0:
			why[i] = "no rule is about tags"
		case matchAny(p.Protect, t.Name):
			why[i] = "protected"
		}
	}
	for k := range p.Keep {
		p.Keep[k].judge(now, tags, why)
	}
	return why
}

func (k *Keep) judge(now time.Time, tags []Tag, why []string) {
	var mine []int
	for i, t := range tags {
		if len(k.Tags) == 0 || matchAny(k.Tags, t.Name) {
			mine = append(mine, i)
		}
	}
	slices.SortFunc(mine, func(a, b int) int {
		return cmp.Or(tags[b].Pushed.Compare(tags[a].Pushed), cmp.Compare(tags[b].Name, tags[a].Name))
	})
	for n, i := range mine {
		if why[i] != "" {
			continue
		}
		switch t := tags[i]; {
		case n < k.Newest:
			why[i] = fmt.Sprintf("one of the newest %d", k.Newest)
		case k.Pushed > 0 && now.Sub(t.Pushed) < k.Pushed:
			why[i] = fmt.Sprintf("pushed within %s", formatAge(k.Pushed))
		case k.Pulled > 0 && now.Sub(t.Pulled) < k.Pulled:
			why[i] = fmt.Sprintf("pulled within %s", formatAge(k.Pulled))
		case k.Newest == 0 && k.Pushed == 0 && k.Pulled == 0:
			why[i] = "kept by its name"
		}
	}
}

// matchAny tells whether a tag matches a pattern. Patterns were checked.
func matchAny(patterns []string, tag string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, tag)
		return ok && err == nil
	})
}
