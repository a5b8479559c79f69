package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/pkg/registry"
)

func TestQuotas(t *testing.T) {
	for _, c := range []struct {
		quota string
		want  Quota
		err   string // part of it; "" for none
	}{
		{quota: "team=10GiB", want: Quota{Upstream: "reg.test", Prefix: "team", Local: true, Size: 10 << 30}},
		{quota: "team/a/**=1GiB", want: Quota{Upstream: "reg.test", Prefix: "team/a", Local: true, Size: 1 << 30}},
		{quota: "other.test/team/=1GiB", want: Quota{Upstream: "reg.test", Prefix: "team", Local: true, Size: 1 << 30}},
		{quota: "*=1GiB", want: Quota{Upstream: "reg.test", Local: true, Size: 1 << 30}},
		{quota: "docker.io=1GiB", want: Quota{Upstream: "docker.io", Size: 1 << 30}},
		{quota: "index.docker.io/library=1GiB", want: Quota{Upstream: "docker.io", Prefix: "library", Size: 1 << 30}},
		{quota: "team", err: "want PREFIX=SIZE"},
		{quota: "=1GiB", err: "want PREFIX=SIZE"},
		{quota: "team=lots", err: "byte size"},
		{quota: "team=0", err: "0 bytes"},
		{quota: "Team=1GiB", err: "is no prefix of repositories"},
		{quota: "else=1GiB", err: "no --local repository is below it"},
		{quota: "gcr.test/x=1GiB", err: "begins with no upstream"},
	} {
		t.Run(c.quota, func(t *testing.T) {
			seeder, l := loadSeeder(t, "--local", "team", "--local-name", "reg.test", "--local-name", "other.test", "--quota-for", c.quota)
			got, err := seeder.PrefixQuotas()
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || l.Check() == nil {
					t.Errorf("%v, want %q; check: %v", err, c.err, l.Check())
				}
				return
			}
			if err != nil || len(got) != 1 || got[0] != c.want || l.Check() != nil {
				t.Errorf("%+v, %v; check: %v", got, err, l.Check())
			}
		})
	}
	seeder, _ := loadSeeder(t, "--local", "team", "--quota-for", "team=1GiB", "--quota-for", "local/team=2GiB")
	if _, err := seeder.PrefixQuotas(); err == nil || !strings.Contains(err.Error(), "before") {
		t.Errorf("two quotas for one prefix: %v", err)
	}
}

func TestQuotaCovers(t *testing.T) {
	q := Quota{Upstream: "reg.test", Prefix: "team"}
	all := Quota{Upstream: "reg.test"}
	for name, want := range map[string]bool{"reg.test/team": true, "reg.test/team/a/b": true, "reg.test/teamwork": false, "docker.io/team/a": false} {
		n, err := registry.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		if q.Covers(n) != want || all.Covers(n) != (n.Upstream == "reg.test") {
			t.Errorf("%s: %v, %v", name, q.Covers(n), all.Covers(n))
		}
	}
}

func TestCheckSpace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "retention.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("- repositories: local/team/**\n  keep: [{newest: 3}]\n")
	seeder, l := loadSeeder(t, "--local", "team", "--retention", file)
	if rules, err := seeder.RetentionRules(); err != nil || rules.For("team/app") == nil || l.Check() != nil {
		t.Errorf("%+v, %v; check: %v", rules, err, l.Check())
	}
	if seeder, _ := loadSeeder(t, "--retention", file); len(seeder.Warnings()) == 0 {
		t.Error("rules without local repositories are no warning")
	}
	write("- repositories: team/**\n  keep: [{newest: none}]\n")
	for want, args := range map[string][]string{
		file + `: line 2: newest: "none" is no number of tags; give 1 or more`: {"--retention", file},
		"no such file":          {"--retention", file + ".not"},
		"--collect-every: -1s":  {"--collect-every", "-1s"},
		"--collect-lease: 1m0s": {"--collect-lease", "1m"},
		"--trash-period: -1s":   {"--trash-period", "-1s"},
	} {
		_, l := loadSeeder(t, append(args, "--local", "team")...)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
