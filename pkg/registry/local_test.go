package registry

import "testing"

func TestResolveLocal(t *testing.T) {
	for _, c := range []struct {
		name, path, ns string
		want, code     string
		local          bool
	}{
		{name: "a prefix", path: "team/app", want: "reg.test/team/app", local: true},
		{name: "the prefix itself", path: "team", want: "reg.test/team", local: true},
		{name: "one that only begins like it", path: "teamwork/app", want: "docker.io/teamwork/app"},
		{name: "a prefix of two", path: "org/a/app", want: "reg.test/org/a/app", local: true},
		{name: "beside it", path: "org/b/app", want: "docker.io/org/b/app"},
		{name: "named in the path", path: "reg.test/team/app", want: "reg.test/team/app", local: true},
		{name: "by another name", path: "reg.test:5000/team/app", want: "reg.test/team/app", local: true},
		{name: "by ns", path: "team/app", ns: "REG.test:5000", want: "reg.test/team/app", local: true},
		{name: "by both", path: "reg.test/team/app", ns: "reg.test", want: "reg.test/team/app", local: true},
		{name: "the upstream's by ns", path: "team/app", ns: "docker.io", want: "docker.io/team/app"},
		{name: "the upstream's by path", path: "docker.io/team/app", want: "docker.io/team/app"},
		{name: "named, and no prefix", path: "other/app", ns: "reg.test", code: CodeNameUnknown},
		{name: "outside the grammar", path: "team/App", code: CodeNameInvalid},
		{name: "dots", path: "team/../x", code: CodeNameInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTestResolver(t, "docker.io", "docker.io")
			if err := r.SetLocal(Local{Names: []string{"Reg.test", "reg.test:5000"}, Prefixes: []string{"team/", "org/a/*"}}); err != nil {
				t.Fatal(err)
			}
			n, err := r.Resolve(c.path, c.ns)
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil || n.String() != c.want || r.IsLocal(n) != c.local {
				t.Fatalf("got %q, local %v, %v; want %q", n, r.IsLocal(n), err, c.want)
			}
		})
	}
	r := newTestResolver(t, "docker.io", "docker.io")
	if err := r.SetLocal(Local{Names: []string{"reg.test"}, Prefixes: []string{"*"}}); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Resolve("any/thing", ""); err != nil || !r.IsLocal(n) {
		t.Errorf("%v, %v", n, err)
	}
	for _, l := range []Local{
		{Prefixes: []string{"team"}},
		{Names: []string{"docker.io"}, Prefixes: []string{"team"}},
		{Names: []string{"a b"}, Prefixes: []string{"team"}},
		{Names: []string{"reg.test"}, Prefixes: []string{"Team"}},
		{Names: []string{"reg.test"}, Prefixes: []string{"my.team"}},
		{Names: []string{"reg.test"}, Prefixes: []string{""}},
	} {
		if err := r.SetLocal(l); err == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}
