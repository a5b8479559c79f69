package hostconf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// Proof is that a runtime asks the mirror first for a registry's images.
type Proof struct {
	Runtime  Runtime `json:"runtime"`
	Registry string  `json:"registry"`
	Path     string  `json:"path"` // of the file that says so
}

// Report is what Verify found.
type Report struct {
	Mirror string  `json:"mirror"`
	Proofs []Proof `json:"proofs"`
	Notes  []Note  `json:"notes"`
}

// verifier makes a report.
type verifier struct {
	Settings
	ctx    context.Context
	h      *Host
	host   string // of the mirror, with its port
	report Report
}

// Verify is Inspect, and asks the mirror whether it is there.
func (h *Host) Verify(ctx context.Context, s Settings) (*Report, error) {
	v, err := h.inspect(ctx, s)
	if err != nil {
		return nil, err
	}
	v.mirror()
	return &v.report, nil
}

// Inspect reads the files of the runtimes as they read them, and asks those that
// run what they know.
func (h *Host) Inspect(ctx context.Context, s Settings) (*Report, error) {
	v, err := h.inspect(ctx, s)
	if err != nil {
		return nil, err
	}
	return &v.report, nil
}

func (h *Host) inspect(ctx context.Context, s Settings) (*verifier, error) {
	u, err := s.check()
	if err != nil {
		return nil, err
	}
	v := &verifier{Settings: s, ctx: ctx, h: h, host: u.Host, report: Report{Mirror: s.Mirror, Proofs: []Proof{}, Notes: []Note{}}}
	for _, r := range s.Runtimes {
		switch r {
		case Containerd:
			err = v.containerd()
		case Docker:
			err = v.docker()
		case Podman:
			err = v.podman()
		case BuildKit:
			err = v.buildkit()
		}
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *verifier) note(n Note) { v.report.Notes = append(v.report.Notes, n) }

// problem is a note that has to be acted on.
func (v *verifier) problem(r Runtime, code, path, remedy, format string, args ...any) {
	v.note(Note{Code: code, Runtime: r, Path: path, Text: fmt.Sprintf(format, args...), Remedy: remedy, Problem: true})
}

const applyRemedy = "run `peerd setup apply`"

func (v *verifier) unreadable(r Runtime, path string, err error) {
	v.problem(r, codeUnreadable, path, "mend it", "cannot be read as the runtime would: %v", err)
}

// proven is that a list of mirrors begins with ours; else a problem.
func (v *verifier) proven(r Runtime, registry, path, want string, mirrors []string) {
	switch i := slices.Index(mirrors, want); {
	case i == 0:
		v.report.Proofs = append(v.report.Proofs, Proof{r, registry, path})
	case i > 0:
		v.problem(r, codeNotFirst, path, "move it to the front", "for %s it names the mirror, but after %s", registry, mirrors[0])
	default:
		v.problem(r, codeNotConfigured, path, applyRemedy, "for %s it does not name %s", registry, want)
	}
}

func (v *verifier) containerd() error {
	c, err := v.h.effectiveContainerd(v.ctx, v.Files[Containerd])
	if err != nil {
		v.unreadable(Containerd, containerdConfig, err)
		return nil
	}
	if code, text := c.fault(); code != "" {
		v.problem(Containerd, code, c.editFile, "`peerd setup plan` says what to write there", "%s", text)
		return nil // what hosts.toml files say does not matter then
	} else if since := v.h.startOf("containerd"); c.set && v.h.newer(c.editFile, since) {
		v.problem(Containerd, codeRestart, c.editFile, "systemctl restart containerd; containers keep running", "was written after containerd started, at %s", since.Format(time.RFC3339))
	}
	for _, r := range v.Registries {
		dir, _ := v.h.certsDir(c.folders(), r, v.h.root.exists)
		if dir == "" {
			if _, names, err := v.h.hiddenByDefault(c.folders()); r == DefaultRegistry && err == nil && len(names) > 0 {
				continue // setup writes none there
			}
			v.problem(Containerd, codeNotConfigured, c.folders()[0], applyRemedy, "it has no directory for %s, and no _default", r)
			continue
		}
		path := filepath.Join(dir, "hosts.toml")
		content, exists, err := v.h.root.read(path)
		if err == nil && (!exists || len(content) == 0) {
			v.problem(Containerd, codeNotConfigured, path, applyRemedy, "is not there, so %s is asked for itself", r)
			continue
		}
		hosts, _, perr := parseHosts(content)
		if err = errors.Join(err, perr); err != nil {
			v.unreadable(Containerd, path, err)
			continue
		}
		v.hosts(r, path, hosts)
	}
	return nil
}

// hosts looks at what containerd asks for a registry: for content the first that
// can pull, for tags the first that can resolve.
func (v *verifier) hosts(registry, path string, hosts []hostEntry) {
	var urls []string
	var entry *hostEntry
	for i, e := range hosts {
		if e.is(v.Mirror) {
			entry, e.url = &hosts[i], v.Mirror
		}
		urls = append(urls, e.url)
	}
	if entry != nil && !entry.can("pull") {
		v.problem(Containerd, codeLacksPull, path, `add "pull" to its capabilities`, "names the mirror, but does not let containerd pull from it")
		return
	}
	if entry != nil && !v.TagsUpstream && !entry.can("resolve") {
		v.note(Note{Code: codeLacksResolve, Runtime: Containerd, Path: path, Text: "containerd asks the registry itself what a tag is, and takes only content from the mirror",
			Remedy: `add "resolve" to its capabilities, unless that is meant`})
	}
	if entry != nil && entry.dialTimeout == "" && v.DialTimeout > 0 {
		v.note(Note{Code: codeNoDialTimeout, Runtime: Containerd, Path: path, Text: "containerd waits 30 s for each step when packets to the mirror are dropped",
			Remedy: fmt.Sprintf("add dial_timeout = %q", v.DialTimeout.String())})
	}
	v.proven(Containerd, registry, path, v.Mirror, urls)
}

// effectiveContainerd is the configuration as containerd itself tells it, where
// the program is here, else as its files say.
func (h *Host) effectiveContainerd(ctx context.Context, path string) (*containerdSetup, error) {
	c, err := h.readContainerd(ctx, path, nil)
	if err != nil || h.run == nil || c.release[0] == 0 {
		return c, err
	}
	dump, err := h.run(ctx, "containerd", "--config", c.path, "config", "dump")
	if err != nil {
		return c, nil // one that is not there, or that an older one cannot dump
	}
	e := &containerdSetup{path: c.path, release: c.release, editFile: c.editFile}
	if _, err := e.merge(c.path, dump); err != nil {
		return nil, fmt.Errorf("containerd config dump: %w", err)
	}
	e.editFile = c.editFile
	if !e.set {
		e.shadowed = c.shadowed
	}
	if !e.set && !c.set {
		e.configPath = c.configPath // what it does by itself, which is not in the dump
	}
	return e, nil
}

func (v *verifier) docker() error {
	if !slices.Contains(v.Registries, dockerHub) {
		return nil
	}
	path := v.Files[Docker]
	if path == "" {
		path = dockerConfig
	}
	content, _, err := v.h.root.read(path)
	if err != nil {
		return err
	}
	mirrors, err := parseDaemonJSON(content)
	if err != nil {
		v.unreadable(Docker, path, err)
		return nil
	}
	inFile := slices.ContainsFunc(mirrors, func(m string) bool { return sameMirror(m, v.Mirror) })
	for i := range mirrors {
		mirrors[i] = strings.TrimRight(mirrors[i], "/")
	}
	if flagged, err := v.h.dockerFlag(); err != nil {
		return err
	} else if flagged != "" && inFile {
		v.problem(Docker, codeDockerFlag, flagged, "remove one of the two", "gives dockerd --registry-mirror, as daemon.json does, and dockerd does not start with both")
		return nil
	}
	if live, ok := v.h.dockerMirrors(v.ctx); ok {
		if inFile && !slices.ContainsFunc(live, func(m string) bool { return sameMirror(m, v.Mirror) }) {
			v.problem(Docker, codeReload, path, "systemctl reload docker (no container is touched)", "names the mirror, but the dockerd that runs does not know it")
			return nil
		}
		mirrors = live
	}
	v.proven(Docker, dockerHub, path, v.Mirror, mirrors)
	return nil
}

const dockerSocket = "/var/run/docker.sock"

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// answerTimeout bounds a request to the mirror or to dockerd.
const answerTimeout = 3 * time.Second

// dockerMirrors asks the dockerd that runs, if one does.
func (h *Host) dockerMirrors(ctx context.Context) ([]string, bool) {
	if h.run == nil {
		return nil, false
	}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.root.at(dockerSocket))
	}}
	a, err := get(ctx, tr, "http://docker/info")
	if err != nil {
		return nil, false
	}
	var info struct{ RegistryConfig struct{ Mirrors []string } }
	if json.Unmarshal(a.body, &info) != nil {
		return nil, false
	}
	mirrors := info.RegistryConfig.Mirrors
	for i := range mirrors {
		mirrors[i] = strings.TrimRight(mirrors[i], "/")
	}
	return mirrors, true
}

func (v *verifier) podman() error {
	path := v.Files[Podman]
	if path == "" {
		path = podmanConfig
	}
	files, err := v.h.podmanFiles(path)
	if err != nil {
		return err
	}
	mirrors, where := map[string][]string{}, map[string]string{}
	for _, f := range files {
		content, _, err := v.h.root.read(f)
		if err != nil {
			return err
		}
		entries, err := parseRegistries(content)
		if err != nil {
			v.unreadable(Podman, f, err)
			return nil
		}
		for _, e := range entries { // a later file's entry replaces an earlier one's
			var list []string
			for _, m := range e.Mirrors {
				list = append(list, m.Location)
			}
			mirrors[e.prefix()], where[e.prefix()] = list, f
		}
	}
	for _, r := range v.Registries {
		if r == DefaultRegistry {
			continue
		}
		f := where[r]
		if f == "" {
			f = path
		}
		v.proven(Podman, r, f, v.host+"/"+r, mirrors[r])
	}
	return nil
}

func (v *verifier) buildkit() error {
	path := v.Files[BuildKit]
	if path == "" {
		path = buildkitConfig
	}
	content, _, err := v.h.root.read(path)
	if err != nil {
		return err
	}
	mirrors, err := parseBuildkit(content)
	if err != nil {
		v.unreadable(BuildKit, path, err)
		return nil
	}
	if since := v.h.startOf("buildkitd"); v.h.newer(path, since) {
		v.problem(BuildKit, codeRestart, path, "systemctl restart buildkit", "was written after buildkitd started, at %s", since.Format(time.RFC3339))
	}
	for _, r := range v.Registries {
		if r != DefaultRegistry {
			v.proven(BuildKit, r, path, v.host, mirrors[r])
		}
	}
	return nil
}

// mirror asks the mirror, as clients do before all else.
func (v *verifier) mirror() {
	// No proxy: runtimes ask a mirror on loopback without one.
	a, err := get(v.ctx, &http.Transport{DisableKeepAlives: true}, v.Mirror+"/v2/")
	switch {
	case err != nil:
		v.problem("", codeMirrorDown, v.Mirror, "start peerd (`systemctl start peerd`), or mend --mirror; until then clients go to the registries themselves", "does not answer: %v", err)
	case a.code != http.StatusOK || a.header.Get("Docker-Distribution-Api-Version") == "":
		v.problem("", codeMirrorOther, v.Mirror, "see who has the port, and give --mirror the address that peerd listens on", "answers GET /v2/ with %s, as no registry does", a.status)
	}
}

// answer is a small one.
type answer struct {
	code   int
	status string
	header http.Header
	body   []byte
}

func get(ctx context.Context, tr http.RoundTripper, u string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, err
	}
	defer resp.Body.Close() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return &answer{resp.StatusCode, resp.Status, resp.Header, body}, err
}

// startOf is when the oldest process of a program started; zero where none runs,
// or where that cannot be seen.
func (h *Host) startOf(program string) time.Time {
	if h.started == nil {
		return time.Time{}
	}
	return h.started(program)
}

func startOfProcess(program string) time.Time {
	_, start := oldest(program)
	return start
}

// oldestProcess is the one that runs for longest of a program's.
func oldestProcess(program string) (procfs.Proc, bool) {
	p, start := oldest(program)
	return p, !start.IsZero()
}

func oldest(program string) (first procfs.Proc, start time.Time) {
	procs, err := procfs.AllProcs()
	if err != nil {
		return first, start
	}
	for _, p := range procs {
		if comm, err := p.Comm(); err != nil || comm != program {
			continue
		}
		st, err := p.Stat()
		if err != nil {
			continue
		}
		if s, err := st.StartTime(); err == nil {
			if t := time.UnixMilli(int64(s * 1000)); start.IsZero() || t.Before(start) {
				first, start = p, t
			}
		}
	}
	return first, start
}

// startError is by how much a start may have been later than it seems: it counts
// from when the machine booted, which the kernel tells in seconds that are cut off.
const startError = 2 * time.Second

// newer tells whether a file was written after a program started at t, if that is
// any time at all.
func (h *Host) newer(path string, t time.Time) bool {
	target, err := h.root.resolve(path)
	if err != nil || t.IsZero() {
		return false
	}
	st, err := os.Stat(h.root.at(target))
	return err == nil && st.ModTime().After(t.Add(startError))
}
