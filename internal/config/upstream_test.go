package config

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The same options by flag, environment and file, and printed so that they can
// be read again.
func TestUpstreamOptions(t *testing.T) {
	ttl := 5 * time.Minute
	want := Upstream{
		Name: "ghcr.io", URL: "https://ghcr.io", Mirrors: []string{"http://10.0.0.1:5000", "https://m.test"}, Seeder: true,
		TagTTL: &ttl, Allow: []string{"acme/**", "*"}, Deny: []string{"acme/secret-*"}, MaxBlob: 4 << 30,
		CredentialHelper: "ecr-login",
	}
	const text = "ghcr.io=https://ghcr.io/ mirror=http://10.0.0.1:5000 mirror=https://m.test seeder=true tag-ttl=5m allow=acme/** allow=* deny=acme/secret-* max-blob=4GiB credential-helper=ecr-login"
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		file string
	}{
		"flag":        {args: []string{"--upstream", text}},
		"environment": {env: map[string]string{"PEERD_UPSTREAM": text}},
		"yaml text":   {file: "upstream:\n  ghcr.io: " + strings.TrimPrefix(text, "ghcr.io=") + "\n"},
		"yaml mapping": {file: `upstream:
  ghcr.io:
    url: https://ghcr.io
    mirror: [http://10.0.0.1:5000, https://m.test]
    seeder: true
    tag-ttl: 5m
    allow: [acme/**, "*"]
    deny: acme/secret-*
    max-blob: 4GiB
    credential-helper: ecr-login
`},
	} {
		got, l, err := load(t, c.args, c.env, c.file)
		if err != nil || len(got.Upstreams) != 1 || !reflect.DeepEqual(got.Upstreams[0], want) {
			t.Errorf("%s: got %+v, %v", name, got.Upstreams, err)
			continue
		}
		var b bytes.Buffer
		if err := l.Print(&b); err != nil {
			t.Fatal(err)
		}
		again, _, err := load(t, nil, nil, b.String())
		if err != nil || !reflect.DeepEqual(again.Upstreams, got.Upstreams) {
			t.Errorf("%s: printed and read again: %+v, %v", name, again.Upstreams, err)
		}
	}
}

func TestUpstreamOptionsRefused(t *testing.T) {
	for _, test := range []struct{ text, says string }{
		{"a.test=http://a color=red", `"color=red" is no option: want one of mirror, seeder`},
		{"a.test=http://a tag-ttl=5", "not a duration"},
		{"a.test=http://a seeder=maybe", "neither true nor false"},
		{"a.test=http://a max-blob=big", "max-blob"},
	} {
		if _, _, err := load(t, []string{"--upstream", test.text}, nil, ""); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.text, err)
		}
	}
	for _, test := range []struct{ text, says string }{
		{"a.test=http://a mirror=ftp://x", "mirror"},
		{"a.test=http://a deny=UPPER", "matches no repository"},
		{"a.test=http://a tag-ttl=-1s", "negative"},
		{"a.test=http://a credential-helper=../evil", "credential-helper"},
		{"a.test=http://a credentials-file=/nowhere/at/all", "credentials-file"},
	} {
		_, l, err := load(t, []string{"--upstream", test.text, "--data", t.TempDir(), "--open-swarm"}, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.text, err)
		}
	}
}

func TestAges(t *testing.T) {
	hour := time.Hour
	c := Common{TagTTL: time.Minute, StaleIfError: 2 * time.Minute, NotFoundTTL: 3 * time.Minute,
		Upstreams: []Upstream{{Name: "a"}, {Name: "b", StaleIfError: &hour}}}
	if got := c.Ages("a"); got != (Ages{time.Minute, 2 * time.Minute, 3 * time.Minute}) {
		t.Errorf("a: %v", got)
	}
	if got := c.Ages("b"); got != (Ages{time.Minute, time.Hour, 3 * time.Minute}) {
		t.Errorf("b: %v", got)
	}
}
