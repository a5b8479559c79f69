package daemon_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/samara-p2p/samara/internal/accesslog"
	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/internal/durable"
	"github.com/samara-p2p/samara/internal/events"
	"github.com/samara-p2p/samara/internal/front"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/internal/scrub"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/internal/visibility"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/registry"
)

const operations = "../../docs/operations.md"

var descRE = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "([^"]+)".* variableLabels: \{([^}]*)\}\}$`)

// metricsOf is the metrics of one daemon, by name without its prefix: labels
// and meaning, as a line of the table.
func metricsOf(t *testing.T, name string) map[string]string {
	d, err := daemon.Open(t.Context(), daemon.Params{Name: name, Version: "test", Config: daemontest.Common(t, config.DefaultSeeder().Common), Seeder: name == "seeder"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	registry.NewHandler(nil, registry.HandlerOptions{Resolver: d.Resolver, Registerer: d.Metrics, Namespace: name})
	metadata.New(metadata.Options{Registerer: d.Metrics, Namespace: name}).Close()
	s, err := scrub.Start(scrub.Options{Store: d.Store, Rate: 1, File: filepath.Join(t.TempDir(), "scrub.json"), Registerer: d.Metrics, Namespace: name})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	visibility.NewPublic(visibility.Options{Registerer: d.Metrics, Namespace: name}).Close()
	if name == "peerd" {
		visibility.NewAnswers(d.Metrics, name)
	}
	if name == "seeder" {
		l, err := local.Open(local.Options{Dir: t.TempDir(), Store: d.Store, Quotas: []local.Quota{{Size: 1}}, Registerer: d.Metrics, Namespace: name})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		securityMetrics(t, d.Metrics)
		objectStoreMetrics(t, d)
	}
	descs := make(chan *prometheus.Desc, 1000)
	d.Metrics.Describe(descs)
	close(descs)
	found := make(map[string]string)
	for desc := range descs {
		m := descRE.FindStringSubmatch(desc.String())
		if m == nil || !strings.HasPrefix(m[1], name+"_") {
			continue // of the Go runtime or the process
		}
		labels := "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
		if m[3] == "" {
			labels = ""
		}
		short := strings.TrimPrefix(m[1], name+"_")
		found[short] = fmt.Sprintf("| `%s` | %s | %s |", short, labels, m[2])
	}
	if len(found) < 20 {
		t.Fatalf("only %d metrics: does a Desc look otherwise now?", len(found))
	}
	return found
}

// objectStoreMetrics registers those of an object store: one that does not
// answer will do where a directory is a copy of one.
func objectStoreMetrics(t *testing.T, d *daemon.Daemon) {
	data := t.TempDir()
	for path, text := range map[string]string{"objectstore/id": "x\n", "registry/repositories/x": ""} {
		path = filepath.Join(data, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	c, err := objectstore.New(objectstore.Options{Location: objectstore.Location{Bucket: "images"}, Endpoint: "http://127.0.0.1:1", Region: "x", Registerer: d.Metrics, Namespace: "seeder"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := durable.Open(t.Context(), durable.Options{Data: data, Objects: c, Store: d.Store, Registerer: d.Metrics, Namespace: "seeder"})
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
}

// securityMetrics registers what stands before a seeder's registry API.
func securityMetrics(t *testing.T, reg prometheus.Registerer) {
	if _, err := auth.New(auth.Options{Registerer: reg, Namespace: "seeder"}); err != nil {
		t.Fatal(err)
	}
	front.NewLimits(front.LimitOptions{Registerer: reg, Namespace: "seeder"})
	front.RegisterExpiry(reg, "seeder", func() time.Time { return time.Time{} })
	hub, err := events.Open(events.Options{Dir: t.TempDir(), Registerer: reg, Namespace: "seeder"})
	if err != nil {
		t.Fatal(err)
	}
	hub.Close()
	al, err := accesslog.Open(accesslog.Options{File: filepath.Join(t.TempDir(), "access.log"), Registerer: reg, Namespace: "seeder"})
	if err != nil {
		t.Fatal(err)
	}
	if err := al.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := audit.Open(audit.Options{File: filepath.Join(t.TempDir(), "audit.log"), Registerer: reg, Namespace: "seeder"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// The page lists each metric that there is, and no other. With
// UPDATE_DOCS=1 it is written.
func TestOperationsPageListsMetrics(t *testing.T) {
	all := metricsOf(t, "peerd")
	for name, line := range metricsOf(t, "seeder") {
		if other, ok := all[name]; ok && other != line {
			t.Errorf("the daemons disagree about %s", name)
		}
		all[name] = line
	}
	lines := []string{"| metric | labels | meaning |", "|---|---|---|"}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		lines = append(lines, all[name])
	}
	table := strings.Join(lines, "\n") + "\n"
	page, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- metrics: from the code, see internal/daemon/operations_test.go -->\n", "<!-- end of metrics -->\n"
	head, rest, ok1 := strings.Cut(string(page), begin)
	was, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the metrics", operations)
	}
	if was == table {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("%s is not up to date: UPDATE_DOCS=1 go test ./internal/daemon -run OperationsPage\nwant:\n%s", operations, table)
	}
	if err := os.WriteFile(operations, []byte(head+begin+table+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The page names each field of the status document.
func TestOperationsPageListsStatus(t *testing.T) {
	page, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[status.Status]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "`"+name+"[]`") {
			t.Errorf("%s does not name %s", operations, name)
		}
	}
}
