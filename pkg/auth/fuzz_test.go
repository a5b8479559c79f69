package auth

import (
	"slices"
	"strings"
	"testing"
)

func FuzzParseRule(f *testing.F) {
	f.Add("group:dev pull+push local/team/** docker.io/library/*")
	f.Add("claim:gh:repository=acme/* pull **")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		if r.actions == 0 || len(r.patterns) == 0 {
			t.Fatalf("%q is a rule that allows nothing", s)
		}
		// Nobody gets a rule that names somebody.
		named := r.who == "user" || r.who == "group" || r.who == "claim"
		if named && r.applies(anonymous) || r.who != "anyone" && r.applies(&Identity{Method: Token}) {
			t.Fatalf("%q is for anonymous", s)
		}
	})
}

func FuzzParseScopes(f *testing.F) {
	f.Add("repository:team/app:pull,push registry:catalog:*")
	f.Add("repository(plugin):host:5000/a:*")
	f.Add("repository:a:pull,catalog,admin")
	f.Fuzz(func(t *testing.T, s string) {
		list := parseScopes([]string{s})
		if len(list) > maxScopes || len(list) > len(strings.Fields(s)) {
			t.Fatalf("%q gives %d scopes", s, len(list))
		}
		for _, one := range list {
			if one.actions&(Catalog|Admin) != 0 || one.catalog && one.actions != 0 {
				t.Fatalf("%q gives %+v", s, one)
			}
		}
	})
}

func FuzzParseHtpasswd(f *testing.F) {
	f.Add([]byte("alice:$2y$05$abcdefghijklmnopqrstuuWfOCSmAsOWMPNUuaBVXbPlKDRtYEkJe\n# x\n\nbob:x"))
	f.Fuzz(func(t *testing.T, content []byte) {
		users, cost, err := parseHtpasswd(content)
		if err != nil {
			return
		}
		if cost < 4 || cost > 31 {
			t.Fatalf("cost %d", cost)
		}
		for u, hash := range users {
			if u == "" || strings.ContainsAny(u, ": \t") || !slices.Contains([]byte("abxy$"), hash[2]) {
				t.Fatalf("user %q has the hash %.4q", u, hash)
			}
		}
	})
}
