package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// loadSeeder gives arguments to a seeder's loader.
func loadSeeder(t *testing.T, args ...string) (*Seeder, *Loader) {
	t.Helper()
	c, l := NewSeeder()
	fs := pflag.NewFlagSet("seeder", pflag.ContinueOnError)
	l.Bind(fs)
	if err := fs.Parse(append([]string{"--data", t.TempDir()}, args...)); err != nil {
		t.Fatal(err)
	}
	if err := l.Load(func(string) (string, bool) { return "", false }); err != nil {
		t.Fatal(err)
	}
	return c, l
}

func TestCheckSecurity(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, []byte("a:$2y$04$BX6pHUGz5aiZv2KcHrZ8YOeNrg1fTVd2xCxKsxFp9wDWmJ4QpGwHu\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	rule := []string{"--allow", "anyone pull **"}
	for _, c := range []struct {
		name string
		args []string
		want string // part of the problem; "" for none
	}{
		{"nothing", nil, ""},
		{"fine", append(rule, "--htpasswd", users, "--group", "dev=a+b"), ""},
		{"rule", []string{"--allow", "anyone read **"}, `--allow: "anyone read **": "read" is not made of`},
		{"no rule", []string{"--htpasswd", users}, "they may do nothing; say who"},
		{"realm whose tokens nobody believes", append(rule, "--token-realm", "https://auth.test/token"), "none of them is believed"},
		{"no issuers", append(rule, "--issuers", filepath.Join(dir, "none")), "--issuers: open "},
		{"no htpasswd", append(rule, "--htpasswd", filepath.Join(dir, "none")), "--htpasswd: open "},
		{"group", append(rule, "--group", "dev"), `--group: "dev": want NAME=USER+USER`},
		{"issuer's group", append(rule, "--group", "gh:dev=a"), "want NAME=USER+USER"},
		{"lifetime", []string{"--token-lifetime", "1s"}, "--token-lifetime: 1s is not within 1m to 24h"},
		{"service", []string{"--token-service", ""}, `--token-service: "" is no name`},
		{"realm", append(rule, "--token-realm", "auth.test"), "--token-realm: "},
		{"key alone", []string{"--tls-key", users}, "--tls-cert: a certificate without a key"},
		{"no certificate", []string{"--tls-cert", filepath.Join(dir, "none"), "--tls-key", users}, "none: no such file"},
		{"client CA without TLS", []string{"--tls-client-ca", users}, "--tls-client-ca: given, and there is no --tls-cert"},
		{"ACME", []string{"--acme-domain", "seeder.test"}, ""},
		{"ACME for an IP", []string{"--acme-domain", "10.0.0.1"}, `--acme-domain: "10.0.0.1" is no host name`},
		{"ACME for a word", []string{"--acme-domain", "seeder"}, `--acme-domain: "seeder" is no host name`},
		{"ACME by http", []string{"--acme-domain", "seeder.test", "--acme-directory", "http://ca.test/dir"}, "is no https URL"},
		{"ACME and files", []string{"--acme-domain", "seeder.test", "--tls-cert", users, "--tls-key", users}, "give one of the two"},
		{"required of whom", []string{"--tls-client-required"}, "there is no authority"},
		{"proxy", []string{"--trusted-proxy", "proxy.test"}, `--trusted-proxy: "proxy.test" is neither an IP nor a network`},
		{"proxy's header", []string{"--proxy-header", "x-real-ip"}, `--proxy-header: "x-real-ip" is not understood; give x-forwarded or forwarded`},
		{"negative", []string{"--max-uploads", "-1", "--hsts", "-1s"}, "--max-uploads: -1 is negative"},
		{"small", []string{"--audit-size", "1KiB"}, "--audit-size: 1KiB is less than 1MiB"},
		{"realm with a password", append(rule, "--token-realm", "https://u:secret@auth.test/"), "REDACTED@auth.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, l := loadSeeder(t, c.args...)
			err := l.Check()
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
	for _, args := range [][]string{{"--group", "dev=a"}, {"--htpasswd", users}} {
		if _, l := loadSeeder(t, args...); len(l.Warnings()) == 0 {
			t.Errorf("%v: no warning", args)
		}
	}
	for pattern, want := range map[string]string{
		"**": "", "*/team/**": "", "docker.io/library/*": "", "local/team/**": "", "docker.*/x": "", "local/team": "", "local/**": "",
		"local/team*":  "", // one star stands within a component, and looks like it
		"local/team**": "local/teamwork/app", "team*": "is of no repository here: names begin with docker.io/ or local/", "team/**": "like docker.io/team/**",
		"ghcr.io/acme/**": "is of no repository", "local": "is of no repository",
	} {
		_, l := loadSeeder(t, "--upstream", "docker.io=http://127.0.0.1:1", "--local", "team", "--local-name", "local", "--allow", "anyone pull "+pattern)
		told := ""
		for _, w := range l.Warnings() {
			if w.Where == "--allow" {
				told += w.What + "; " + w.Fix + "\n"
			}
		}
		if want == "" && told != "" || !strings.Contains(told, want) {
			t.Errorf("%s: %s, want %q", pattern, told, want)
		}
	}
	c, _ := loadSeeder(t, "--group", "dev=a+b", "--group", "ops=a")
	if g, err := c.GroupsOf(); err != nil || !slices.Equal(g["a"], []string{"dev", "ops"}) || !slices.Equal(g["b"], []string{"dev"}) {
		t.Errorf("%v %v", g, err)
	}
}
