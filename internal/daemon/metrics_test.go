package daemon_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

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
	"github.com/samara-p2p/samara/internal/prewarm"
	"github.com/samara-p2p/samara/internal/scrub"
	"github.com/samara-p2p/samara/internal/visibility"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

const reference = "../../docs/metrics.md"

// metric is a line of the reference page.
type metric struct{ kind, labels, help string }

var descRE = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "([^"]+)",.* constLabels: \{(.*)\}, variableLabels: \{([^}]*)\}\}$`)

// describe lists the metrics of a registry whose names begin with a daemon's.
func describe(t *testing.T, reg *prometheus.Registry, daemon string) map[string]metric {
	descs := make(chan *prometheus.Desc, 1000)
	reg.Describe(descs)
	close(descs)
	found := make(map[string]metric)
	for desc := range descs {
		m := descRE.FindStringSubmatch(desc.String())
		if m == nil || !strings.HasPrefix(m[1], daemon+"_") {
			continue // of the Go runtime or the process
		}
		fixed := prometheus.Labels{}
		for _, pair := range regexp.MustCompile(`([a-z_]+)="([^"]*)"`).FindAllStringSubmatch(m[3], -1) {
			fixed[pair[1]] = pair[2]
		}
		var names []string
		if m[4] != "" {
			names = strings.Split(m[4], ",")
		}
		kind := kindOf(reg, prometheus.GaugeOpts{Name: m[1], Help: m[2], ConstLabels: fixed}, names)
		names = append(names, slices.Sorted(maps.Keys(fixed))...)
		labels := "`" + strings.Join(names, "`, `") + "`"
		if len(names) == 0 {
			labels = ""
		}
		found[strings.TrimPrefix(m[1], daemon+"_")] = metric{kind, labels, m[2]}
	}
	if len(found) < 20 {
		t.Fatalf("only %d metrics: does a Desc look otherwise now?", len(found))
	}
	return found
}

// kindOf is the type of a metric. A registry that is given a twin of a metric
// answers with the one it has.
func kindOf(reg *prometheus.Registry, twin prometheus.GaugeOpts, labels []string) string {
	var there prometheus.AlreadyRegisteredError
	if !errors.As(reg.Register(prometheus.NewGaugeVec(twin, labels)), &there) {
		return "gauge" // one of a collector of several, which are gauges
	}
	switch c := there.ExistingCollector.(type) {
	case *prometheus.CounterVec:
		return "counter"
	case *prometheus.HistogramVec:
		return "histogram"
	case prometheus.Metric:
		var value dto.Metric
		switch err := c.Write(&value); {
		case err == nil && value.Counter != nil:
			return "counter"
		case err == nil && value.Histogram != nil:
			return "histogram"
		}
	}
	return "gauge"
}

// metricsOf is the metrics of one daemon with everything switched on, by name
// without its prefix.
func metricsOf(t *testing.T, name string) map[string]metric {
	c := daemontest.Common(t, config.DefaultSeeder().Common)
	p := daemon.Params{Name: name, Version: "test", Turn: daemontest.Turn(t, name, c), Config: c, Seeder: name == "seeder"}
	if p.Seeder {
		p.Prefixes = []store.PrefixQuota{{Prefix: "docker.io", Bytes: 1 << 20}}
	}
	d, err := daemon.Open(t.Context(), p)
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
		prewarm.RegisterTaken(d.Metrics, name, func() map[p2p.Phase]int { return nil })
	}
	if name == "seeder" {
		l, err := local.Open(local.Options{Dir: t.TempDir(), Store: d.Store, Quotas: []local.Quota{{Size: 1}}, Registerer: d.Metrics, Namespace: name})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := prewarm.Open(prewarm.Options{File: filepath.Join(t.TempDir(), "prewarm.json"), Registerer: d.Metrics, Namespace: name}); err != nil {
			t.Fatal(err)
		}
		securityMetrics(t, d.Metrics)
		objectStoreMetrics(t, d)
	}
	return describe(t, d.Metrics, name)
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
	if _, err := auth.New(auth.Options{Realm: "https://seeder/token", KeyFile: filepath.Join(t.TempDir(), "tokens.json"), Registerer: reg, Namespace: "seeder"}); err != nil {
		t.Fatal(err)
	}
	front.NewLimits(front.LimitOptions{Registerer: reg, Namespace: "seeder"})
	front.RegisterExpiry(reg, "seeder", func() (never time.Time) { return never })
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
func TestReferenceListsMetrics(t *testing.T) {
	peerd, seeder := metricsOf(t, "peerd"), metricsOf(t, "seeder")
	all := maps.Clone(peerd)
	for name, m := range seeder {
		if other, ok := all[name]; ok && other != m {
			t.Errorf("the daemons disagree about %s: %v, %v", name, m, other)
		}
		all[name] = m
	}
	lines := []string{"| metric | type | of | labels | meaning |", "|---|---|---|---|---|"}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		of := "both"
		if _, ok := seeder[name]; !ok {
			of = "peerd"
		} else if _, ok := peerd[name]; !ok {
			of = "seeder"
		}
		m := all[name]
		lines = append(lines, fmt.Sprintf("| `%s` | %s | %s | %s | %s |", name, m.kind, of, m.labels, m.help))
	}
	table := strings.Join(lines, "\n") + "\n"
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- from the code, see internal/daemon/metrics_test.go -->\n", "<!-- end -->\n"
	head, rest, ok1 := strings.Cut(string(page), begin)
	was, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the metrics", reference)
	}
	if was == table {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("%s is not up to date: UPDATE_DOCS=1 go test ./internal/daemon -run Reference\nwant:\n%s", reference, table)
	}
	if err := os.WriteFile(reference, []byte(head+begin+table+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
