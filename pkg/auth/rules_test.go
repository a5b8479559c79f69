package auth

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func rules(t testing.TB, lines ...string) Rules {
	t.Helper()
	var rs Rules
	for _, l := range lines {
		r, err := ParseRule(l)
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func TestRules(t *testing.T) {
	rs := rules(t,
		"anyone pull docker.io/library/*",
		"authenticated pull docker.io/**",
		"user:ci push team/app team/lib*",
		"user:ci pull team/**",
		"group:ops pull+push+delete+catalog **",
		"claim:gh:repository=acme/* pull+push acme/*",
		"peers pull public/**",
	)
	ci := &Identity{User: "ci", Method: Password}
	ops := &Identity{User: "olga", Groups: []string{"ops"}, Method: Password}
	gh := &Identity{User: "gh:repo:acme/app", Method: Issuer, Claims: map[string][]string{"gh:repository": {"acme/app"}}}
	other := &Identity{User: "gh:repo:evil/app", Method: Issuer, Claims: map[string][]string{"gh:repository": {"evilacme/app"}}}
	peer := &Identity{User: "ci", Method: Peer}
	for _, c := range []struct {
		id   *Identity
		a    Actions
		repo string
		want bool
	}{
		{anonymous, Pull, "docker.io/library/nginx", true},
		{anonymous, Pull, "docker.io/library/nginx/deep", false},
		{anonymous, Pull, "docker.io/lab/app", false},
		{anonymous, Push, "docker.io/library/nginx", false},
		{ci, Pull, "docker.io/lab/app", true},
		{ci, Pull, "docker.io", false},
		{ci, Push, "team/app", true},
		{ci, Pull | Push, "team/app", true},
		{ci, Push, "team/app2", false},
		{ci, Push, "team/library", true},
		{ci, Push, "team/lib/x", false},
		{ci, Delete, "team/app", false},
		{ci, Pull, "xteam/app", false},
		{ops, Pull | Push | Delete | Catalog, "anything/at/all", true},
		{gh, Push, "acme/app", true},
		{gh, Push, "acmexapp", false},
		{other, Push, "acme/app", false},
		{peer, Pull, "public/a/b", true},
		{peer, Pull, "docker.io/lab/app", false}, // a peer is not "authenticated"
		{peer, Push, "team/app", false},          // and is no user, whatever its name
		{peer, Pull, "docker.io/library/nginx", true},
	} {
		if got := rs.allowed(c.id, c.repo).has(c.a); got != c.want {
			t.Errorf("%s (%s) %s %s: %v", c.id.User, c.id.Method, c.a, c.repo, got)
		}
	}
}

func TestParseRuleSaysWhatIsWrong(t *testing.T) {
	for rule, want := range map[string]string{
		"":                             "want WHO ACTIONS PATTERN",
		"anyone pull":                  "want WHO ACTIONS PATTERN",
		"everybody pull **":            `"everybody" is nobody`,
		"anyone:x pull **":             "takes no name",
		"user: pull **":                "want user:NAME",
		"anyone read **":               `"read" is not made of`,
		"anyone pull,push **":          "joined by '+'",
		"anyone pull Team/App":         "is no pattern",
		"user:ops admin local/team/**": "its pattern is **",
		"user:ops pull+admin local/**": "its pattern is **",
		"claim:repository=x pull **":   "want claim:ISSUER:NAME=VALUE",
		"claim:gh:repository pull a":   "want claim:ISSUER:NAME=VALUE",
		"claim:gh:repository= pull *":  "want claim:ISSUER:NAME=VALUE",
	} {
		if _, err := ParseRule(rule); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", rule, err, want)
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("a/**/b*", "a/x/bc")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, text, s string) {
		if !utf8.ValidString(text) {
			return // ParseRule refuses it
		}
		p := newPattern(text, component)
		if !strings.Contains(text, "*") && p.match(s) != (text == s) {
			t.Fatalf("%q matches %q: %v", text, s, p.match(s))
		}
		if rest, ok := strings.CutSuffix(text, "**"); ok && !strings.Contains(rest, "*") && p.match(s) != strings.HasPrefix(s, rest) {
			t.Fatalf("%q matches %q: %v", text, s, p.match(s))
		}
	})
}
