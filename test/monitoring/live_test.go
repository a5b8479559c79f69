package monitoring

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/test/lab"
)

// absent are metrics that rules or dashboards name and that no daemon of this
// test shows, with the reason. They have to be in the reference.
var absent = map[string]string{
	"seeder_events_dropped_total":                "no event is lost here",
	"seeder_events_pending":                      "there is no endpoint",
	"seeder_objectstore_up":                      "there is no object store",
	"seeder_upstream_rate_limit":                 "the upstream has none",
	"seeder_upstream_rate_limit_remaining":       "the upstream has none",
	"seeder_upstream_certificate_expiry_seconds": "the upstream is without TLS",
	"peerd_upstream_bytes_total":                 "the seeder gives all",
	"peerd_upstream_requests_total":              "the seeder gives all",
}

// scraped are the labels of each series in the text of a scrape.
func scraped(t *testing.T, text string, into map[string][]string) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, labels ...string) {
		all := append(slices.Clone(into[name]), labels...)
		slices.Sort(all)
		into[name] = slices.Compact(all)
	}
	for name, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName())
			}
			if f.GetType() == dto.MetricType_HISTOGRAM {
				add(name+"_bucket", append(labels, "le")...)
				add(name+"_sum", labels...)
				add(name+"_count", labels...)
				continue
			}
			add(name, labels...)
		}
	}
}

// referenced are the labels of each series that docs/metrics.md lists.
func referenced(t *testing.T) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (\\w+) \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(read(t, "../../docs/metrics.md")), -1) {
		labels := strings.Fields(strings.NewReplacer("`", "", ",", "").Replace(m[4]))
		daemons := []string{m[3]}
		if m[3] == "both" {
			daemons = []string{"peerd", "seeder"}
		}
		for _, d := range daemons {
			for _, suffix := range map[bool][]string{true: {"_bucket", "_sum", "_count"}, false: {""}}[m[2] == "histogram"] {
				out[d+"_"+m[1]+suffix] = labels
			}
		}
	}
	if len(out) < 100 {
		t.Fatalf("the reference lists only %d series", len(out))
	}
	return out
}

// queriesOf are those of rules and dashboards.
func queriesOf(t *testing.T) []query {
	all := panelsOf(t)
	for _, r := range rulesOf(t) {
		all = append(all, query{r.Alert + r.Record, r.Expr, strings.Join(slices.Sorted(maps.Values(r.Annotations)), " ")})
	}
	return all
}

// Each metric and label of rules and dashboards is in a scrape of daemons that
// have just pulled. The reference stands for those that nothing here brings
// about; and whatever is scraped is in the reference.
func TestNamesAreLive(t *testing.T) {
	reference := referenced(t)
	known := scrapeDaemons(t)
	for name := range known {
		if _, ok := reference[name]; !ok && (strings.HasPrefix(name, "peerd_") || strings.HasPrefix(name, "seeder_")) {
			t.Errorf("docs/metrics.md does not list %s", name)
		}
	}
	queries := queriesOf(t)
	for name, why := range absent {
		if _, live := known[name]; live {
			t.Errorf("%s is there: take it off the list of what is not (%s)", name, why)
		}
		labels, ok := reference[name]
		if !ok {
			t.Errorf("docs/metrics.md does not list %s", name)
		}
		known[name] = labels
	}
	for _, r := range rulesOf(t) {
		if r.Record == "" {
			continue
		}
		for _, u := range usesOf(r.Expr) {
			known[r.Record] = append(known[r.Record], known[u.metric]...)
		}
	}
	for _, problem := range unknown(queries, known) {
		t.Error(problem)
	}

	// A metric or label that is renamed is noticed.
	renamed := maps.Clone(known)
	renamed["peerd_p2p_neighbors"] = renamed["peerd_p2p_neighbours"]
	delete(renamed, "peerd_p2p_neighbours")
	renamed["peerd_received_bytes_total"] = []string{"from"}
	found := strings.Join(unknown(queries, renamed), "\n")
	for _, want := range []string{
		"SamaraPeerIsolated: no daemon has the metric peerd_p2p_neighbours",
		"fleet.json: Fewest neighbours: no daemon has the metric peerd_p2p_neighbours",
		"samara:peer_share:ratio5m: peerd_received_bytes_total has no label source",
		"samara:received_bytes:rate5m: no metric of it has the label source",
	} {
		if !strings.Contains(found, want) {
			t.Errorf("not noticed: %s\nonly: %s", want, found)
		}
	}
}

// scrapeDaemons pulls an image through two peerds and a seeder, has another
// seeder turn a client away, and scrapes all of them.
func scrapeDaemons(t *testing.T) map[string][]string {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l := lab.ForTest(t, lab.Options{Loopback: true})
	bin, err := lab.Build(ctx, t.TempDir())
	must(err)
	host := func(name string) *lab.Host {
		h, err := l.NewHost(name, 0)
		must(err)
		return h
	}
	img, err := lab.NewImage(lab.ImageSpec{Layers: []int64{3 << 20, 1000}, Seed: 1})
	must(err)
	up, err := lab.StartBuiltin(host("upstream"), "docker.io", img, "library/app", "v1")
	must(err)
	logs := t.TempDir()
	s, err := lab.StartSeeder(ctx, bin, host("seeder"), lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: up.Name, URL: up.URL}},
		Args: []string{"--local", "team", "--audit-log", filepath.Join(logs, "audit"), "--access-log", filepath.Join(logs, "access")}})
	must(err)
	known := make(map[string][]string)
	for i := range 2 {
		h := host(fmt.Sprintf("peer%d", i))
		p, err := lab.StartPeerd(ctx, bin, h, lab.PeerdConfig{Seeder: s.URL, SwarmKey: s.SwarmKey})
		must(err)
		_, err = (&lab.HTTPPuller{Client: h.HTTPClient(), Mirror: p.Mirror, NS: up.Name}).Pull(ctx, "library/app", "v1")
		must(err)
		must(lab.Eventually(ctx, func() error { // what is counted after the client has all
			text, err := p.Metrics(ctx)
			if err == nil && !strings.Contains(text, `peerd_pull_duration_seconds_count{result="ok"} 1`) {
				err = fmt.Errorf("no pull is measured")
			}
			return err
		}))
		text, err := p.Metrics(ctx)
		must(err)
		scraped(t, text, known)
	}
	text, err := s.Metrics(ctx)
	must(err)
	scraped(t, text, known)
	text, err = secured(ctx, t, bin, host("secured")).Metrics(ctx)
	must(err)
	scraped(t, text, known)
	return known
}

// secured is a seeder with TLS and users that has turned a client away.
func secured(ctx context.Context, t *testing.T, bin lab.Binaries, h *lab.Host) *lab.Seeder {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.ParseIP(h.IP)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	word, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s, err := lab.StartSeeder(ctx, bin, h, lab.SeederConfig{OpenSwarm: true, Args: []string{
		"--local", "team", "--htpasswd", write("htpasswd", append([]byte("ci:"), append(word, '\n')...)), "--allow", "user:ci pull local/**",
		"--tls-cert", write("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		"--tls-key", write("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}})
	if err != nil {
		t.Fatal(err)
	}
	client := h.HTTPClient()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // its own certificate
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.Replace(s.URL, "http://", "https://", 1)+"/v2/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("ci", "wrong")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a wrong password is answered %s", resp.Status)
	}
	return s
}

// What the parser of queries finds.
func TestUses(t *testing.T) {
	q := `sum by (instance, le) (rate(peerd_x_total{kind=~"a|b", code!="c"}[5m])) / on (zone) samara:y:rate5m`
	got := fmt.Sprint(usesOf(q), groupings(q, "{{ $labels.kind }} at {{host}}"))
	if want := "[{peerd_x_total [kind code]} {samara:y:rate5m []}] [host instance kind le zone]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := usesOf("go_goroutines"); len(got) != 0 {
		t.Errorf("a metric of Go is taken for ours: %v", got)
	}
}
