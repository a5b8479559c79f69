package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load gives arguments, environment and a file to a peerd's loader.
func load(t *testing.T, args []string, env map[string]string, file string) (*Peerd, *Loader, error) {
	t.Helper()
	c, l := NewPeerd()
	if file != "" {
		path := filepath.Join(t.TempDir(), "peerd.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	fs := pflag.NewFlagSet("peerd", pflag.ContinueOnError)
	l.Bind(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	err := l.Load(func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	return c, l, err
}

func TestPrecedence(t *testing.T) {
	c, l, err := load(t,
		[]string{"--zone", "flag", "--bootstrap", "f1", "--bootstrap", "f2", "--mdns"},
		map[string]string{"PEERD_ZONE": "env", "PEERD_QUOTA": "2GiB", "PEERD_TAG_TTL": "5m", "PEERD_BOOTSTRAP": "e1", "PEERD_ADVERTISE": "a, b,", "PEERD_LISTEN": "", "PEERD_SERVICE_HOST": "10.0.0.1"},
		"zone: file\nquota: 1GiB\ntag-ttl: 1h\ndata: /srv/peerd\nbootstrap: [y1, y2, y3]\nseeder: http://s:5000\nmdns: false\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name      string
		got, want any
		level     string
	}{
		{"zone", c.Zone, "flag", "flag"},
		{"bootstrap", c.Bootstrap, []string{"f1", "f2"}, "flag"},
		{"mdns", c.MDNS, true, "flag"},
		{"quota", c.Quota, ByteSize(2 << 30), "env"},
		{"tag-ttl", c.TagTTL, 5 * time.Minute, "env"},
		{"advertise", c.Advertise, []string{"a", "b"}, "env"},
		{"data", c.Data, "/srv/peerd", "file"},
		{"seeder", c.Seeders, []string{"http://s:5000"}, "file"},
		{"listen", c.Listen, "127.0.0.1:5050", "default"},
		{"max-concurrent", c.MaxConcurrent, 8, "default"},
	} {
		if !reflect.DeepEqual(x.got, x.want) || l.sources[x.name].Level != x.level {
			t.Errorf("%s: got %v from %s, want %v from %s", x.name, x.got, l.sources[x.name].Level, x.want, x.level)
		}
	}
}

func TestConfigFileFromEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte("zone: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := load(t, nil, map[string]string{"PEERD_CONFIG": path}, "")
	if err != nil || c.Zone != "a" {
		t.Errorf("zone %q, %v", c.Zone, err)
	}
}

func TestUpstreams(t *testing.T) {
	want := []Upstream{{Name: "docker.io", URL: "https://registry-1.docker.io"}, {Name: "registry.lab.test:5000", URL: "http://10.0.0.1:5000"}}
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		file string
	}{
		"flags":        {args: []string{"--upstream", "index.docker.io=https://registry-1.docker.io/", "--upstream", "Registry.lab.test:5000=http://10.0.0.1:5000"}},
		"environment":  {env: map[string]string{"PEERD_UPSTREAM": "docker.io=https://registry-1.docker.io, registry.lab.test:5000=http://10.0.0.1:5000"}},
		"yaml mapping": {file: "upstream:\n  docker.io: https://registry-1.docker.io\n  registry.lab.test:5000: http://10.0.0.1:5000\n"},
		"yaml list":    {file: "upstream:\n- docker.io=https://registry-1.docker.io\n- registry.lab.test:5000=http://10.0.0.1:5000\n"},
		"yaml anchor":  {file: "upstream: &u\n  docker.io: https://registry-1.docker.io\n  registry.lab.test:5000: http://10.0.0.1:5000\n"},
	} {
		got, _, err := load(t, c.args, c.env, c.file)
		if err != nil || !reflect.DeepEqual(got.Upstreams, want) {
			t.Errorf("%s: got %v, %v", name, got.Upstreams, err)
		}
	}
}

func TestDefaultUpstream(t *testing.T) {
	lab, hub := Upstream{Name: "lab.test", URL: "http://l"}, Upstream{Name: "docker.io", URL: "http://d"}
	for _, c := range []struct {
		list   []Upstream
		chosen string
		want   string
	}{
		{DefaultUpstreams(), "", "docker.io"},
		{[]Upstream{lab}, "", "lab.test"},
		{[]Upstream{lab, {Name: "x.test", URL: "http://x"}}, "", ""},
		{[]Upstream{lab, hub}, "", "docker.io"},
		{[]Upstream{lab, hub}, "lab.test", "lab.test"},
		{[]Upstream{lab, hub}, "Index.docker.io", "docker.io"},
		{nil, "", ""},
	} {
		cfg := Common{Upstreams: c.list, DefaultUpstream: c.chosen}
		if got := cfg.Default(); got != c.want {
			t.Errorf("%v %q: got %q, want %q", c.list, c.chosen, got, c.want)
		}
	}
}

// Every message says where, what and what to do.
func TestLoadErrors(t *testing.T) {
	for _, c := range []struct {
		name, file string
		args       []string
		env        map[string]string
		want       []string
	}{
		{name: "typo", file: "zone: a\nlistn: :1\n", want: []string{`peerd.yaml:2: unknown key "listn"; did you mean "listen"?`}},
		{name: "other spelling", file: "tagTTL: 1m\n", want: []string{`unknown key "tagTTL"; did you mean "tag-ttl"?`}},
		{name: "underscore", file: "p2p_listen: x\n", want: []string{`did you mean "p2p-listen"?`}},
		{name: "far off", file: "kubernetes: true\n", want: []string{"unknown key \"kubernetes\"; remove it; `peerd config print` shows the keys there are"}},
		{name: "all at once", file: "a-a-a: 1\nquota: lots\n", args: []string{"--tag-ttl", "5"}, env: map[string]string{"PEERD_MDNS": "maybe"},
			want: []string{"configuration has 4 problems:\n", `:1: unknown key "a-a-a"`, `:2: quota: byte size "lots": want a number and a unit`, `PEERD_MDNS: "maybe" is neither true nor false`, `--tag-ttl: "5" is not a duration like 90s, 5m or 24h`}},
		{name: "twice", file: "zone: a\nzone: b\n", want: []string{`:2: key "zone" is given twice; it is also on line 1; remove one`}},
		{name: "no value", file: "zone:\n", want: []string{":1: zone: has no value; give one or remove the line"}},
		{name: "list for a scalar", file: "zone: [a]\n", want: []string{":1: zone: want a string"}},
		{name: "mapping for a list", file: "bootstrap: {a: b}\n", want: []string{":1: bootstrap: want a list"}},
		{name: "list in a list", file: "bootstrap: [[a]]\n", want: []string{"line 1: want plain text in this list"}},
		{name: "no url", file: "upstream: {docker.io: }\n", want: []string{"line 1: want NAME: URL"}},
		{name: "no name", args: []string{"--upstream", "https://ghcr.io"}, want: []string{`--upstream: "https://ghcr.io": want NAME=URL, like ghcr.io=https://ghcr.io`}},
		{name: "number", args: []string{"--max-concurrent", "8x"}, want: []string{`--max-concurrent: "8x" is not a whole number`}},
		{name: "not a mapping", file: "- a\n", want: []string{":1: is not a mapping of settings; write lines like"}},
		{name: "not yaml", file: "zone: [a\n", want: []string{"peerd.yaml: ", "line 1", "correct the YAML there"}},
		{name: "two documents", file: "zone: a\n---\nzone: b\n", want: []string{"more than one YAML document"}},
		{name: "no such file", args: []string{"--config", "/nowhere/x.yaml"}, want: []string{"/nowhere/x.yaml: no such file or directory; give --config a YAML file that this user can read"}},
		{name: "directory", args: []string{"--config", "/"}, want: []string{"/: is a directory"}},
		{name: "password is not shown", args: []string{"--upstream", "https://bob:hunter2@ghcr.io"}, want: []string{"REDACTED"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := load(t, c.args, c.env, c.file)
			var ce *Error
			if !errors.As(err, &ce) {
				t.Fatalf("got %v, want an *Error", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("password in: %v", err)
			}
		})
	}
	for name, file := range map[string]string{"empty": "", "comment": "# nothing\n", "null": "null\n"} {
		if _, _, err := load(t, nil, nil, file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://bob:hunter2@ghcr.io/v2":   "https://REDACTED@ghcr.io/v2",
		"https://bob:hun/ter2@ghcr.io":     "https://REDACTED@ghcr.io",
		"x=https://hunter2@ghcr.io":        "x=https://REDACTED@ghcr.io",
		"https://ghcr.io/a@sha256:b":       "https://ghcr.io/a@sha256:b",
		"http://10.0.0.1:5000":             "http://10.0.0.1:5000",
		"/ip4/1.2.3.4/tcp/4001/p2p/12D3Ko": "/ip4/1.2.3.4/tcp/4001/p2p/12D3Ko",
	} {
		if got := redact(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// What print writes is a file that gives the same configuration.
func TestPrintRoundTrip(t *testing.T) {
	c, l, err := load(t, []string{"--upstream", "ghcr.io=https://ghcr.io", "--zone", "8", "--bootstrap", "a: b"}, map[string]string{"PEERD_QUOTA": "3GiB"}, "stale-if-error: 36h\nmdns: true\n")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := l.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"zone: \"8\" # flag --zone\n", "quota: 3GiB # env PEERD_QUOTA\n", "listen: 127.0.0.1:5050\n", "upstream: # flag --upstream\n  ghcr.io: https://ghcr.io\n", "stale-if-error: 36h # file ", "peerd.yaml:1\n", "advertise: []\n"} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("no %q in:\n%s", w, out.String())
		}
	}
	again, _, err := load(t, nil, nil, out.String())
	if err != nil {
		t.Fatal(err)
	}
	normal := func(p *Peerd) Peerd { // an empty list is no list
		n := *p
		for _, s := range []*[]string{&n.Advertise, &n.Seeders, &n.Bootstrap} {
			if len(*s) == 0 {
				*s = nil
			}
		}
		return n
	}
	if !reflect.DeepEqual(normal(c), normal(again)) {
		t.Errorf("got  %+v\nwant %+v", normal(again), normal(c))
	}
}

func FuzzYAML(f *testing.F) {
	for _, s := range []string{"zone: a\n", "upstream:\n  a: b\n", "upstream: [a=b]\n", "a: &x {b: *x}\n", "? [a]\n: b\n", "<<: {zone: a}\n", "bootstrap: &a [*a]\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		_, l := NewPeerd()
		for _, p := range l.loadYAML("x.yaml", content) {
			if p.Where == "" || p.What == "" {
				t.Fatalf("problem %+v", p)
			}
		}
	})
}
