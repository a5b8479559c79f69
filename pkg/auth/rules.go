package auth

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Actions are what can be done with a repository, as a set.
type Actions uint8

// The actions.
const (
	Pull    Actions = 1 << iota // read manifests, blobs and lists of tags
	Push                        // upload blobs, put manifests
	Delete                      // remove blobs, manifests and tags
	Catalog                     // see the name in /v2/_catalog, where it may also be pulled
	Admin                       // use the admin API, which is about all repositories
	Watch                       // look by the admin API, and change nothing
)

// actionNames is in the order in which they are written.
var actionNames = []struct {
	a    Actions
	name string
}{{Pull, "pull"}, {Push, "push"}, {Delete, "delete"}, {Catalog, "catalog"}, {Admin, "admin"}, {Watch, "watch"}}

func (a Actions) has(b Actions) bool { return a&b == b }

func (a Actions) names() []string {
	list := []string{}
	for _, n := range actionNames {
		if a.has(n.a) {
			list = append(list, n.name)
		}
	}
	return list
}

func (a Actions) String() string { return strings.Join(a.names(), "+") }

// parseActions reads names; ok is false where one is none.
func parseActions(names []string) (a Actions, ok bool) {
	ok = true
	for _, name := range names {
		i := slices.IndexFunc(actionNames, func(n struct {
			a    Actions
			name string
		}) bool {
			return n.name == name
		})
		if i < 0 {
			ok = false
			continue
		}
		a |= actionNames[i].a
	}
	return a, ok
}

// Rule allows something: "group:dev pull+push team/**".
type Rule struct {
	who      string // "anyone", "authenticated", "peers", "user", "group", "claim"
	name     string // of the user, group or claim
	value    pattern
	actions  Actions
	patterns []pattern
}

// ParseRule reads "WHO ACTIONS PATTERN [PATTERN...]". The errors are for
// whoever wrote it.
//
//	WHO      anyone | authenticated | peers | user:NAME | group:NAME | claim:ISSUER:NAME=VALUE
//	ACTIONS  pull, push, delete, catalog, admin, watch, joined by "+"
//	PATTERN  a canonical repository name; "*" stands for anything within a
//	         component, "**" for anything
func ParseRule(s string) (Rule, error) {
	if !utf8.ValidString(s) {
		return Rule{}, fmt.Errorf("%q: not UTF-8", s)
	}
	words := strings.Fields(s)
	if len(words) < 3 {
		return Rule{}, fmt.Errorf("%q: want WHO ACTIONS PATTERN, like \"group:dev pull+push team/**\"", s)
	}
	r := Rule{}
	kind, name, named := strings.Cut(words[0], ":")
	switch kind {
	case "anyone", "authenticated", "peers":
		if named {
			return Rule{}, fmt.Errorf("%q: %s takes no name", s, kind)
		}
	case "user", "group":
		if name == "" {
			return Rule{}, fmt.Errorf("%q: want %s:NAME", s, kind)
		}
	case "claim":
		claim, value, ok := strings.Cut(name, "=")
		if !ok || !strings.Contains(claim, ":") || value == "" {
			return Rule{}, fmt.Errorf("%q: want claim:ISSUER:NAME=VALUE", s)
		}
		name, r.value = claim, newPattern(value, anything)
	default:
		return Rule{}, fmt.Errorf("%q: %q is nobody; want anyone, authenticated, peers, user:NAME, group:NAME or claim:ISSUER:NAME=VALUE", s, words[0])
	}
	r.who, r.name = kind, name
	var ok bool
	if r.actions, ok = parseActions(strings.Split(words[1], "+")); !ok {
		return Rule{}, fmt.Errorf("%q: %q is not made of pull, push, delete, catalog, admin and watch joined by '+'", s, words[1])
	}
	for _, w := range words[2:] {
		if _, err := ParsePattern(w); err != nil {
			return Rule{}, fmt.Errorf("%q: %w", s, err)
		}
		r.patterns = append(r.patterns, newPattern(w, component))
	}
	if r.actions&(Admin|Watch) != 0 && !slices.ContainsFunc(r.patterns, func(p pattern) bool { return p.text == "**" }) {
		return Rule{}, fmt.Errorf("%q: %s is about all repositories: its pattern is **", s, r.actions&(Admin|Watch))
	}
	return r, nil
}

// patternRE is loose about what is a name and strict about what would never
// match one.
var patternRE = regexp.MustCompile(`^[a-z0-9*\[][a-z0-9._:\[\]/*-]*$`)

// applies tells whether the rule speaks of this identity.
func (r *Rule) applies(id *Identity) bool {
	switch r.who {
	case "anyone":
		return true
	case "authenticated":
		return id.User != "" && id.Method != Peer
	case "peers":
		return id.Method == Peer
	case "user":
		return id.Method != Peer && id.User == r.name
	case "group":
		return slices.Contains(id.Groups, r.name)
	case "claim":
		return slices.ContainsFunc(id.Claims[r.name], r.value.match)
	}
	return false
}

func (r *Rule) match(repository string) bool {
	return slices.ContainsFunc(r.patterns, func(p pattern) bool { return p.match(repository) })
}

// Rules are what is allowed: the union of all that each rule allows. The zero
// value allows nothing.
type Rules []Rule

// allowed are the actions on one repository, each by any rule.
func (rs Rules) allowed(id *Identity, repository string) Actions {
	var a Actions
	for i := range rs {
		if r := &rs[i]; r.applies(id) && !a.has(r.actions) && r.match(repository) {
			a |= r.actions
		}
	}
	return a
}

// patterns are what an identity may do a thing with.
func (rs Rules) patterns(id *Identity, a Actions) []pattern {
	var list []pattern
	for i := range rs {
		if r := &rs[i]; r.applies(id) && r.actions.has(a) {
			list = append(list, r.patterns...)
		}
	}
	return list
}

// speakOf tells whether there is a rule for this kind of asker.
func (rs Rules) speakOf(who string) bool {
	return slices.ContainsFunc(rs, func(r Rule) bool { return r.who == who })
}

// ParsePattern reads a pattern of repositories, as rules have them.
func ParsePattern(s string) (match func(repository string) bool, err error) {
	if !patternRE.MatchString(s) {
		return nil, fmt.Errorf("%q is no pattern: repository names are in lower case, '*' stands for anything within a component and '**' for anything", s)
	}
	return newPattern(s, component).match, nil
}

// pattern matches whole names.
type pattern struct {
	text string
	re   *regexp.Regexp // nil: the text itself
}

// What a single star stands for.
const (
	component = "[^/]*"
	anything  = ".*"
)

// newPattern takes "**" for anything and "*" for what star says.
func newPattern(text, star string) pattern {
	if !strings.Contains(text, "*") {
		return pattern{text: text}
	}
	var b strings.Builder
	b.WriteString(`^(?s:`)
	for rest := text; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(star)
			rest = rest[1:]
		default:
			i := strings.IndexByte(rest, '*')
			if i < 0 {
				i = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:i]))
			rest = rest[i:]
		}
	}
	b.WriteString(`)$`)
	return pattern{text: text, re: regexp.MustCompile(b.String())}
}

func (p pattern) match(s string) bool {
	if p.re == nil {
		return s == p.text
	}
	return p.re.MatchString(s)
}
