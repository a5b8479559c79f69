package retention

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const file = `
- repositories: [team/prod/**, reg.test/team/stable]
  keep:
    - tags: '*'
- repositories: team/**
  protect: [latest, 'release-*']
  keep:
    - tags: ['v*']
      newest: 2
      pulled: 30d
    - pushed: 12h
  untagged: 2w
- repositories: 'lab/*'
  untagged: keep
`

func TestJudge(t *testing.T) {
	rules, err := Parse([]byte(file), []string{"reg.test"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name, repository string
		tags             []Tag
		want             []string
	}{
		{"a tag by any criterion", "team/app", []Tag{
			{"v1", ago(90 * day), ago(90 * day)},
			{"v2", ago(80 * day), ago(29 * day)},
			{"v3", ago(70 * day), ago(70 * day)},
			{"v4", ago(60 * day), ago(60 * day)},
			{"release-1", ago(90 * day), ago(90 * day)},
			{"latest", ago(90 * day), ago(90 * day)},
			{"ci-1", ago(11 * time.Hour), ago(time.Hour)},
			{"ci-2", ago(13 * time.Hour), ago(time.Hour)},
			{"unreleased-1", ago(90 * day), ago(90 * day)},
		}, []string{"", "pulled within 30d", "one of the newest 2", "one of the newest 2", "protected", "protected", "pushed within 12h0m0s", "", ""}},
		{"of two at once the later name is newer", "team/app", []Tag{
			{"v1", ago(90 * day), ago(90 * day)}, {"v3", ago(90 * day), ago(90 * day)}, {"v2", ago(90 * day), ago(90 * day)},
		}, []string{"", "one of the newest 2", "one of the newest 2"}},
		{"exactly as old as it says is too old", "team/app", []Tag{{"x", ago(12 * time.Hour), now}}, []string{""}},
		{"the first policy counts", "team/prod/app", []Tag{{"old", ago(900 * day), ago(900 * day)}}, []string{"kept by its name"}},
		{"by the name of the registry", "team/stable", []Tag{{"old", ago(900 * day), ago(900 * day)}}, []string{"kept by its name"}},
		{"no keep keeps all", "lab/x", []Tag{{"old", ago(900 * day), ago(900 * day)}}, []string{"no rule is about tags"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := rules.For(c.repository).Judge(now, c.tags)
			for i, why := range got {
				if why != c.want[i] {
					t.Errorf("%s: %q, want %q", c.tags[i].Name, why, c.want[i])
				}
			}
		})
	}
	for repo, want := range map[string]time.Duration{"team/prod/app": 0, "team/app": 14 * day, "lab/x": -1} {
		if got := rules.For(repo).Untagged; got != want {
			t.Errorf("%s: untagged %v, want %v", repo, got, want)
		}
	}
	for _, repo := range []string{"team", "lab/x/y", "other"} {
		if rules.For(repo) != nil {
			t.Errorf("%s has a policy", repo)
		}
	}
}

// Every mistake names its line and what to write instead.
func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"", "has no rules"},
		{"a: b", "line 1: want a list"},
		{"- [x]", "line 1: want keys and values"},
		{"- repositories: '**'\n---\n- x", "more than one YAML document"},
		{"- repositories: '**'\n  kep: []", `line 2: unknown key "kep"`},
		{"- repositories: '**'\n  untagged: 1d\n  untagged: 2d", "line 3: untagged is there twice"},
		{"- keep:\n    - newest: 3", "line 1: names no repositories"},
		{"- repositories: Team", `line 1: "Team" is no pattern of repositories`},
		{"- repositories: [['**']]", "line 1: want a word"},
		{"- repositories: '**'\n  keep: []", "line 2: want a list"},
		{"- repositories: '**'\n  keep: [{}]", "line 2: is empty"},
		{"- repositories: '**'\n  keep:\n    - newest: 0", `line 3: newest: "0" is no number of tags`},
		{"- repositories: '**'\n  keep:\n    - newest: x", `line 3: newest: "x"`},
		{"- repositories: '**'\n  keep:\n    - pushed: 5", `line 3: "5" is no age`},
		{"- repositories: '**'\n  keep:\n    - pulled: -5d", `line 3: "-5d" is no age`},
		{"- repositories: '**'\n  keep:\n    - tags: ['[v']", `line 3: "[v" is no pattern of tags`},
		{"- repositories: '**'\n  untagged: never", `line 2: "never" is no age`},
		{"- repositories: '**'\n  protect: [latest]", "has no keep"},
		{"- {", "line 1"},
	} {
		if _, err := Parse([]byte(c.file), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.file, err, c.want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if rules, err := Load(path, nil); err != nil || len(rules) != 3 {
		t.Errorf("%v, %v", rules, err)
	}
	if err := os.WriteFile(path, []byte("- keep: x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, nil); err == nil || !strings.HasPrefix(err.Error(), path+": line 1: ") {
		t.Errorf("%v", err)
	}
	if _, err := Load(path+".not", nil); err == nil {
		t.Error("a file that is not there was read")
	}
}
