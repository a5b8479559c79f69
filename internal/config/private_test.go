package config

import "testing"

// A seeder that gives everybody what its credentials open says so.
func TestPrivateWarnings(t *testing.T) {
	with := func(change func(*Seeder)) *Seeder {
		c := DefaultSeeder()
		c.Listen = ":5000"
		c.Upstreams = []Upstream{{Name: "docker.io", URL: "https://registry-1.docker.io"}, {Name: "ghcr.io", URL: "https://ghcr.io", CredentialsFile: "/etc/samara/ghcr"}}
		change(&c)
		return &c
	}
	for name, tt := range map[string]struct {
		c    *Seeder
		warn bool
	}{
		"credentials and no rules": {with(func(*Seeder) {}), true},
		"a helper and no rules":    {with(func(c *Seeder) { c.Upstreams[1].CredentialsFile, c.Upstreams[1].CredentialHelper = "", "ecr-login" }), true},
		"no credentials":           {with(func(c *Seeder) { c.Upstreams[1].CredentialsFile = "" }), false},
		"rules":                    {with(func(c *Seeder) { c.Allow = []string{"anyone pull docker.io/**"} }), false},
		"loopback":                 {with(func(c *Seeder) { c.Listen = "127.0.0.1:5000" }), false},
	} {
		if got := tt.c.privateWarnings(); (len(got) > 0) != tt.warn {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
