package registry

import (
	"errors"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat("a", 250)
	for _, c := range []struct{ in, want, code string }{
		{in: "docker.io/library/nginx", want: "docker.io/library/nginx"},
		{in: "docker.io/nginx", want: "docker.io/library/nginx"},
		{in: "index.docker.io/nginx", want: "docker.io/library/nginx"},
		{in: "Registry-1.Docker.IO:443/org/app", want: "docker.io/org/app"},
		{in: "ghcr.io/app", want: "ghcr.io/app"},
		{in: "registry.lab.test:5000/a/b/c", want: "registry.lab.test:5000/a/b/c"},
		{in: "[::1]:5000/a", want: "[::1]:5000/a"},
		{in: "lab/app", want: "lab/app"},
		{in: "nginx", code: CodeNameInvalid},
		{in: "", code: CodeNameInvalid},
		{in: "/nginx", code: CodeNameInvalid},
		{in: "docker.io/", code: CodeNameInvalid},
		{in: "docker.io/Nginx", code: CodeNameInvalid},
		{in: "docker.io/a//b", code: CodeNameInvalid},
		{in: "docker.io/../etc", code: CodeNameInvalid},
		{in: "docker.io/a___b", code: CodeNameInvalid},
		{in: "docker.io/_tags", code: CodeNameInvalid},
		{in: "../docker.io/a", code: CodeNameInvalid},
		{in: "bad host/a", code: CodeNameInvalid},
		{in: "ghcr.io/" + long, code: CodeNameInvalid},
	} {
		t.Run(c.in, func(t *testing.T) {
			n, err := ParseName(c.in)
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil || n.String() != c.want {
				t.Fatalf("got %q, %v; want %q", n, err, c.want)
			}
		})
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got error %v, want code %s", err, code)
	}
}

func TestReferences(t *testing.T) {
	sha512 := "sha512:" + strings.Repeat("ab", 64)
	for _, c := range []struct {
		s           string
		tag, digest bool
	}{
		{"latest", true, false},
		{"1.27-alpine_3", true, false},
		{"_x", true, false},
		{strings.Repeat("t", 128), true, false},
		{strings.Repeat("t", 129), false, false},
		{".hidden", false, false},
		{"-x", false, false},
		{"", false, false},
		{"a/b", false, false},
		{emptyDigest, false, true},
		{sha512, false, true},
		{"sha384:" + strings.Repeat("ab", 48), false, false},
		{"sha256:short", false, false},
		{"sha256:" + strings.Repeat("AB", 32), false, false},
		{"md5:d41d8cd98f00b204e9800998ecf8427e", false, false},
	} {
		if got := ValidTag(c.s); got != c.tag {
			t.Errorf("ValidTag(%q) = %v", c.s, got)
		}
		d, err := ParseDigest(c.s)
		if got := err == nil; got != c.digest || got && d.String() != c.s {
			t.Errorf("ParseDigest(%q) = %q, %v", c.s, d, err)
		}
		if err != nil {
			wantCode(t, err, CodeDigestInvalid)
		}
	}
}

// emptyDigest is SHA-256 of nothing.
const emptyDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"docker.io/library/nginx", "a.b:1/x/y__z", "[::1]/a", "..", "a/b/../c", "A/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			wantCode(t, err, CodeNameInvalid)
			return
		}
		if again, err := ParseName(n.String()); err != nil || again != n {
			t.Fatalf("%q gives %q, which gives %q, %v", s, n, again, err)
		}
		if len(n.String()) > MaxNameLength || strings.Contains(n.String(), "..") || strings.ContainsAny(n.Repository, ":@\\") {
			t.Fatalf("%q gives %q", s, n)
		}
	})
}
