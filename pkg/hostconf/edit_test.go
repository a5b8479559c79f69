package hostconf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// editor is what setup does to one file of a format. It may leave it alone.
type editor struct {
	file   string
	edit   func(p *planner, d *draft) error
	pieces []string // of which random files are made
}

var editors = map[string]editor{
	"hosts.toml": {"hosts.toml",
		func(p *planner, d *draft) error { return p.hostsEdits(d, certFiles{}) },
		[]string{"server = \"https://r.corp\"\n", "# note\n", "\n", "ca = [\"a\",\n  'b']\r\n", "[host.\"https://m%d.corp\"]\n", "  capabilities = [\"pull\"] # why\n",
			"  [host.\"https://n%d.corp\".header]\n", "    x%d = \"\"\"\n# [host]\n\"\"\"\n", "[other%d]\n", "k%d = 1\n", "[[list]]\n"}},
	"config.toml": {"config.toml",
		func(_ *planner, d *draft) error {
			err := setConfigPath(d, registrySection(2), 2, `config_path = "/etc/containerd/certs.d"`)
			if err != nil && len(d.edits) == 0 {
				return nil // left alone
			}
			return err
		},
		[]string{"version = 2\n", "# note\n", "\n", "imports = [\"/a\"]\n", "[plugins]\n", "[plugins.\"io.containerd.grpc.v1.cri\"]\n", "  [plugins.'io.containerd.grpc.v1.cri'.registry]\n",
			"config_path = \"\"\n", "config_path = '/a:/b' # two\n", "k%d = [1,\n 2]\n", "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.m%d]\n", "[grpc]\n"}},
	"daemon.json": {"daemon.json",
		func(p *planner, d *draft) error { return addJSONMirror(d, p.Mirror) },
		nil},
	"registries.conf": {"registries.conf",
		func(p *planner, d *draft) error {
			entries, err := parseRegistries(d.base)
			if err != nil || !slices.ContainsFunc(entries, func(e registryEntry) bool { return e.prefix() == "docker.io" }) {
				return err
			}
			return p.entry(d, "docker.io")
		},
		[]string{"unqualified-search-registries = [\"docker.io\"]\n", "short-name-mode = \"enforcing\"\n", "# note\n", "\n", "[[registry]]\nprefix = \"docker.io\"\n", "location = \"docker.io\"\n",
			"[[registry]]\nlocation = \"quay.io\"\n", "  [[registry.mirror]]\n  location = \"m%d.corp\"\n", "insecure = true\n", "[aliases]\n", "\"a%d\" = \"docker.io/a\"\n"}},
	"buildkitd.toml": {"buildkitd.toml",
		func(p *planner, d *draft) error { return p.buildkitEdits(d, []string{"docker.io", "quay.io"}) },
		[]string{"debug = true\n", "# note\n", "\n", "[worker.oci]\n", "[registry.\"docker.io\"]\n", "[registry.'quay.io']\n", "  mirrors = []\n", "  mirrors = [ \"a%d\" , \"b\" ] # two\n", "k%d = 2\n", "[registry.\"127.0.0.1:5050\"]\n"}},
}

// random makes a file of pieces, some of which fit.
func (e *editor) random(r *rand.Rand) []byte {
	if e.pieces == nil {
		return randomJSON(r)
	}
	var b strings.Builder
	for i := range r.IntN(12) {
		piece := e.pieces[r.IntN(len(e.pieces))]
		if strings.Contains(piece, "%d") {
			piece = fmt.Sprintf(piece, i)
		}
		b.WriteString(piece)
	}
	out := b.String()
	if r.IntN(4) == 0 {
		out = strings.TrimSuffix(out, "\n")
	}
	return []byte(out)
}

func randomJSON(r *rand.Rand) []byte {
	space := func() string { return []string{"", " ", "\n", "\n  ", "\t", "\r\n"}[r.IntN(6)] }
	var members []string
	for i := range r.IntN(4) {
		members = append(members, fmt.Sprintf("%q%s:%s%s", fmt.Sprint("k", i), space(), space(), []string{"1", `"registry-mirrors"`, `{"a":[]}`, "null"}[r.IntN(4)]))
	}
	if r.IntN(2) == 0 {
		list := []string{"[]", "[ ]", "null", `["https://a"]`, "[\n \"https://a\" ,\n \"https://b\"\n]"}[r.IntN(5)]
		members = slices.Insert(members, r.IntN(len(members)+1), `"registry-mirrors"`+space()+":"+space()+list)
	}
	return []byte(space() + "{" + space() + strings.Join(members, space()+","+space()) + space() + "}" + space())
}

// apply edits base, and gives what undo would know of it. ok is false where the
// file is left alone, as it is when it does not parse.
func (e *editor) apply(t testing.TB, base []byte) (r *record, written []byte, ok bool) {
	t.Helper()
	p := &planner{Settings: settings("docker.io"), host: "127.0.0.1:5050"}
	d := &draft{path: "/" + e.file, target: "/" + e.file, base: base, existed: true}
	if err := e.edit(p, d); err != nil || len(d.edits) == 0 {
		return nil, nil, false
	}
	written = d.result()
	return &record{Existed: true, Base: base, SHA256: sum(written), Edits: d.edits}, written, true
}

// roundTrip holds undo to its word for one file, and one edit of others.
func (e *editor) roundTrip(t *testing.T, base []byte, r *rand.Rand) bool {
	t.Helper()
	rec, written, ok := e.apply(t, base)
	if !ok {
		return false
	}
	isJSON := filepath.Ext(e.file) == ".json"
	if got, err := rec.takeOut(written, isJSON); err != nil || !bytes.Equal(got, base) {
		t.Fatalf("%s: undo of\n%s\ngives\n%s\n%v, not\n%s", e.file, written, got, err, base)
	}
	// Somebody's line between two lines of base, and where these are now. Right
	// where our part is, undo cannot tell whose side it is on.
	line := []byte("# somebody's line\n")
	if isJSON {
		line = []byte(" \n")
	}
	at := 0
	for range r.IntN(bytes.Count(base, []byte("\n")) + 1) {
		at += bytes.IndexByte(base[at:], '\n') + 1
	}
	now := at
	for _, ed := range rec.Edits {
		if at >= ed.Offset && at <= ed.Offset+len(ed.Old) {
			return true
		}
		if at > ed.Offset {
			now += len(ed.New) - len(ed.Old)
		}
	}
	theirs := slices.Concat(written[:now], line, written[now:])
	want := slices.Concat(base[:at], line, base[at:])
	if got, err := rec.takeOut(theirs, isJSON); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: undo of\n%s\ngives\n%s\n%v, not\n%s", e.file, theirs, got, err, want)
	}
	return true
}

// Undo is the inverse of apply for any file, and leaves what others write.
func TestUndoIsInverse(t *testing.T) {
	for name, e := range editors {
		t.Run(name, func(t *testing.T) {
			edited := 0
			for seed := range uint64(3000) {
				r := rand.New(rand.NewPCG(seed, 1))
				if e.roundTrip(t, e.random(r), r) {
					edited++
				}
			}
			if edited < 300 {
				t.Errorf("only %d files were edited", edited)
			}
		})
	}
}

func fuzz(f *testing.F, name string) {
	e := editors[name]
	for seed := range uint64(20) {
		f.Add(e.random(rand.New(rand.NewPCG(seed, 2))), seed)
	}
	f.Fuzz(func(t *testing.T, base []byte, seed uint64) {
		e.roundTrip(t, base, rand.New(rand.NewPCG(seed, 3)))
	})
}

func FuzzHosts(f *testing.F)      { fuzz(f, "hosts.toml") }
func FuzzConfig(f *testing.F)     { fuzz(f, "config.toml") }
func FuzzDaemon(f *testing.F)     { fuzz(f, "daemon.json") }
func FuzzRegistries(f *testing.F) { fuzz(f, "registries.conf") }
func FuzzBuildkit(f *testing.F)   { fuzz(f, "buildkitd.toml") }

// FuzzState feeds undo a state that was damaged: it may refuse, not panic.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"files":[{"path":"/a","target":"/a","records":[{"existed":true,"base":"YQ==","sha256":"","edits":[{"offset":1,"new":"b","mark":"b"}]}]}]}`), []byte("ab\n"))
	f.Fuzz(func(t *testing.T, stored, file []byte) {
		s, err := parseState(stored)
		if err != nil {
			return
		}
		for i := range s.Files {
			_, _, _ = s.Files[i].without(file, true)
		}
	})
}
