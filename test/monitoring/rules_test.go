package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	manifests = "../../manifests/monitoring"
	runbook   = "../../docs/runbook.md"
)

type rule struct {
	Record, Alert, Expr string
	For                 string
	Labels, Annotations map[string]string
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rulesOf are the rules as Prometheus loads them.
func rulesOf(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	if err := yaml.Unmarshal(read(t, filepath.Join(manifests, "rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("only %d rules", len(all))
	}
	return all
}

// promtool runs it in the directory of the rules; where it is missing, the test
// is skipped.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is missing: apt-get install prometheus")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = manifests
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Prometheus takes the rules and the configuration.
func TestPrometheusTakesThem(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"check", "config", "prometheus.yaml"}} {
		if out, err := promtool(t, args...); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// So does it that for Kubernetes. Debian's promtool is built without
// kubernetes_sd_configs, of which the one for pods is taken as read: files stand in.
func TestPrometheusTakesThemOnKubernetes(t *testing.T) {
	const discovery = "kubernetes_sd_configs: [{role: pod}]"
	text := string(read(t, filepath.Join(manifests, "prometheus-kubernetes.yaml")))
	if strings.Count(text, discovery) != 1 {
		t.Fatalf("it does not have %s once", discovery)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"prometheus.yaml": strings.Replace(text, discovery, "file_sd_configs: [{files: [pods.json]}]", 1),
		"rules.yaml":      string(read(t, filepath.Join(manifests, "rules.yaml"))),
		"pods.json":       "[]",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := promtool(t, "check", "config", filepath.Join(dir, "prometheus.yaml")); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	plain := string(read(t, filepath.Join(manifests, "prometheus.yaml")))
	for _, job := range []string{"samara-peerd", "samara-seeder"} {
		if !strings.Contains(plain, "job_name: "+job) || !strings.Contains(text, `replacement: "samara-$1"`) {
			t.Errorf("the jobs of the two differ: %s", job)
		}
	}
}

// Every alert fires, is quiet and ends as its tests say.
func TestRules(t *testing.T) {
	if out, err := promtool(t, "test", "rules", "rules_test.yaml", "rules_minutes_test.yaml"); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
}

// Each alert has a test by which it fires, one by which it is quiet and one of
// series that are gone; a section in the runbook, which its annotation names; a
// severity and a summary. The runbook has no other sections.
func TestAlertsAreWhole(t *testing.T) {
	var tests []struct {
		Name           string
		AlertRuleTests []struct {
			Alertname string
			ExpAlerts []any `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
	for _, name := range []string{"rules_test.yaml", "rules_minutes_test.yaml"} {
		var file struct{ Tests yaml.Node }
		if err := yaml.Unmarshal(read(t, filepath.Join(manifests, name)), &file); err != nil {
			t.Fatal(err)
		}
		had := tests
		if err := file.Tests.Decode(&tests); err != nil {
			t.Fatal(err)
		}
		tests = append(had, tests...)
	}
	page := string(read(t, runbook))
	var alerts []string
	for _, r := range rulesOf(t) {
		if r.Alert == "" {
			continue
		}
		alerts = append(alerts, r.Alert)
		fires, quiet, gone := 0, 0, 0
		for _, one := range tests {
			what, mine := strings.CutPrefix(one.Name, r.Alert+" ")
			if !mine {
				continue
			}
			for _, a := range one.AlertRuleTests {
				if a.Alertname != r.Alert {
					t.Errorf("the test %q is about %s", one.Name, a.Alertname)
				}
				switch {
				case strings.HasPrefix(what, "fires") && len(a.ExpAlerts) > 0:
					fires++
				case strings.HasPrefix(what, "is quiet") && len(a.ExpAlerts) == 0:
					quiet++
				case strings.HasPrefix(what, "is gone"):
					gone++
				default:
					t.Errorf("the test %q does not do what its name says", one.Name)
				}
			}
		}
		if fires == 0 || quiet == 0 || gone == 0 {
			t.Errorf("%s has %d tests by which it fires, %d by which it is quiet, %d of series that are gone; want one at least of each", r.Alert, fires, quiet, gone)
		}
		if want := "docs/runbook.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
		if s := r.Labels["severity"]; s != "warning" && s != "critical" || r.Annotations["summary"] == "" {
			t.Errorf("%s: severity %q, summary %q", r.Alert, s, r.Annotations["summary"])
		}
		_, section, ok := strings.Cut(page, "\n## "+r.Alert+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for _, part := range []string{"- **Means**: ", "- **Look**: ", "- **Do**: "} {
			if !ok || !strings.Contains(section, part) {
				t.Errorf("%s: the section of %s has no %s", runbook, r.Alert, part)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(page, -1) {
		if !slices.Contains(alerts, m[1]) {
			t.Errorf("%s has a section on %s, which is no alert", runbook, m[1])
		}
	}
}

// Dashboards are as boards.go says. With UPDATE_DOCS=1 they are written.
func TestDashboardsAreWritten(t *testing.T) {
	dir := filepath.Join(manifests, "dashboards")
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := WriteDashboards(dir); err != nil {
			t.Fatal(err)
		}
	}
	fresh := t.TempDir()
	if err := WriteDashboards(fresh); err != nil {
		t.Fatal(err)
	}
	for _, b := range boards {
		if !bytes.Equal(read(t, filepath.Join(fresh, b.file)), read(t, filepath.Join(dir, b.file))) {
			t.Errorf("%s is not up to date: UPDATE_DOCS=1 go test ./test/monitoring -run Dashboards", b.file)
		}
	}
}

// panelsOf are the queries of the dashboards, read back from their files.
func panelsOf(t *testing.T) []query {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(manifests, "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	var out []query
	for _, file := range files {
		var board struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr, LegendFormat string }
			}
		}
		if err := json.Unmarshal(read(t, file), &board); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, p := range board.Panels {
			for _, target := range p.Targets {
				out = append(out, query{fmt.Sprintf("%s: %s", filepath.Base(file), p.Title), target.Expr, target.LegendFormat})
			}
		}
	}
	return out
}

// Prometheus can parse the query of every panel, as a rule, once Grafana has put
// in its variables.
func TestPanelsParse(t *testing.T) {
	type record struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []record
	fill := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".+")
	for i, q := range panelsOf(t) {
		expr := fill.Replace(q.expr)
		if strings.Contains(expr, "$") {
			t.Errorf("%s: a variable is left in %s", q.where, expr)
		}
		rules = append(rules, record{fmt.Sprintf("panel:%d", i), expr})
	}
	content, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "check", "rules", file); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}
