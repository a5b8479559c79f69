package hostconf

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Where containerd's configuration is, and where it looks for hosts.toml if
// told nothing else from 2.2 on.
const (
	containerdConfig = "/etc/containerd/config.toml"
	k3sConfig        = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
	rke2Config       = "/var/lib/rancher/rke2/agent/etc/containerd/config.toml"
	certsFolder      = "/etc/containerd/certs.d"
	twoFolders       = "/etc/containerd/certs.d:/etc/docker/certs.d"
)

// maxImports bounds the files that a config.toml may import.
const maxImports = 100

// containerdSetup is what matters of containerd's configuration.
type containerdSetup struct {
	path     string // of config.toml
	release  [2]int // of the program; zero where it is not known
	version  int    // of the format
	editFile string // that says, or would say, config_path

	configPath string
	set        bool   // config_path; else it is what the release says
	shadowed   string // file that sets config_path in vain, as a later one replaces its section
	mirrors    []string
	tls        bool // configs.*.tls
	localPull  bool // CRI does not use the transfer service
	criOff     bool
}

// registrySection is where config_path is, by the version of the format.
func registrySection(version int) []string {
	switch {
	case version <= 1:
		return []string{"plugins", "cri", "registry"}
	case version == 2:
		return []string{"plugins", "io.containerd.grpc.v1.cri", "registry"}
	}
	return []string{"plugins", "io.containerd.cri.v1.images", "registry"}
}

// header is a section's line in TOML.
func header(section []string) string {
	parts := slices.Clone(section)
	for i, s := range parts {
		if strings.ContainsAny(s, ".:") {
			parts[i] = strconv.Quote(s)
		}
	}
	return "[" + strings.Join(parts, ".") + "]"
}

var releaseRE = regexp.MustCompile(` v?(\d+)\.(\d+)\.`)

// readContainerd reads the configuration as containerd does, without what prev
// says we wrote.
func (h *Host) readContainerd(ctx context.Context, path string, prev *state) (*containerdSetup, error) {
	c := &containerdSetup{path: path}
	if path == "" {
		c.path = containerdConfig
		for _, other := range []string{k3sConfig, rke2Config} {
			if !h.root.exists(containerdConfig) && h.root.exists(other) {
				c.path = other
			}
		}
	}
	if h.run != nil {
		if out, err := h.run(ctx, "containerd", "--version"); err == nil {
			if m := releaseRE.FindStringSubmatch(string(out)); m != nil {
				c.release[0], _ = strconv.Atoi(m[1]) // digits
				c.release[1], _ = strconv.Atoi(m[2])
			}
		}
	}
	c.editFile = c.path
	if err := h.readConfigFiles(c, prev); err != nil {
		return nil, err
	}
	if c.version == 0 {
		if c.version = 2; c.release[0] >= 2 {
			c.version = 3
		}
	}
	if !c.set && len(c.mirrors) == 0 && (c.release[0] > 2 || c.release[0] == 2 && c.release[1] >= 2) {
		c.configPath = twoFolders
	}
	return c, nil
}

// readConfigFiles reads config.toml and what it imports, in containerd's order.
func (h *Host) readConfigFiles(c *containerdSetup, prev *state) error {
	pending, seen := []string{c.path}, map[string]bool{}
	for len(pending) > 0 && len(seen) < maxImports {
		path := pending[0]
		pending = pending[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		content, exists, err := h.root.read(path)
		if err != nil {
			return err
		}
		target, err := h.root.resolve(path)
		if err != nil {
			return err
		}
		if content, exists, err = prev.file(target).without(content, exists); err != nil {
			return err
		}
		if !exists {
			continue
		}
		imports, err := c.merge(path, content)
		if err != nil {
			return fmt.Errorf("%s: %w; containerd does not start with it", path, err)
		}
		for _, im := range imports {
			if !filepath.IsAbs(im) {
				im = filepath.Join(filepath.Dir(path), im)
			}
			found, err := h.glob(im)
			if err != nil {
				return err
			}
			pending = append(pending, found...)
		}
	}
	return nil
}

// glob is the files of a directory whose names match; patterns elsewhere in the
// path are not looked into.
func (h *Host) glob(pattern string) ([]string, error) {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}, nil
	}
	dir := filepath.Dir(pattern)
	names, err := h.root.list(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, n := range names {
		if ok, err := filepath.Match(filepath.Base(pattern), n); err == nil && ok {
			found = append(found, filepath.Join(dir, n))
		}
	}
	return found, nil
}

// merge adds what a file says to what those before it said. A plugin's section
// replaces an earlier one as a whole up to version 2, and is merged after.
func (c *containerdSetup) merge(path string, content []byte) (imports []string, err error) {
	var file struct {
		Version  int            `toml:"version"`
		Imports  []string       `toml:"imports"`
		Disabled []string       `toml:"disabled_plugins"`
		Plugins  map[string]any `toml:"plugins"`
	}
	if err := decodeTOML(content, &file); err != nil {
		return nil, err
	}
	if path == c.path {
		c.version = max(file.Version, 1)
	}
	if slices.Contains(file.Disabled, "cri") || slices.Contains(file.Disabled, registrySection(2)[1]) || slices.Contains(file.Disabled, registrySection(3)[1]) {
		c.criOff = true
	}
	section := registrySection(max(file.Version, 1))
	plugin, ok := file.Plugins[section[1]].(map[string]any)
	if !ok {
		return file.Imports, nil
	}
	registry, _ := plugin["registry"].(map[string]any)
	if file.Version <= 2 || registry["config_path"] != nil {
		if c.set {
			c.shadowed = c.editFile
		}
		c.editFile, c.version = path, max(file.Version, 1)
		c.configPath, c.set = "", false
	}
	if s, ok := registry["config_path"].(string); ok {
		c.configPath, c.set = s, s != ""
	}
	if c.set {
		c.shadowed = ""
	}
	mirrors, _ := registry["mirrors"].(map[string]any)
	for name := range mirrors {
		c.mirrors = append(c.mirrors, name)
	}
	slices.Sort(c.mirrors)
	configs, _ := registry["configs"].(map[string]any)
	for _, v := range configs {
		if m, ok := v.(map[string]any); ok && m["tls"] != nil {
			c.tls = true
		}
	}
	for _, key := range []string{"use_local_image_pull", "discard_unpacked_layers"} {
		if on, ok := plugin[key].(bool); ok && on {
			c.localPull = true
		}
	}
	return file.Imports, nil
}

// oneFolder tells whether containerd takes config_path for one folder: the
// transfer service, which pulls for CRI from 2.1 on, does not split it at
// colons, and finds nothing where there are two.
func (c *containerdSetup) oneFolder() bool {
	if c.release[0] != 0 {
		return !c.localPull && (c.release[0] > 2 || c.release[0] == 2 && c.release[1] >= 1)
	}
	return !c.localPull && c.version >= 3
}

// folders are where hosts.toml files have to be, the first first. Where
// config_path has to be mended, they are what it will say.
func (c *containerdSetup) folders() []string {
	list := slices.DeleteFunc(filepath.SplitList(c.configPath), func(s string) bool { return s == "" })
	switch {
	case len(list) == 0:
		return []string{certsFolder}
	case c.oneFolder():
		return list[:1]
	}
	return list
}

// fault says what is wrong with config_path; the code is "" if nothing is.
func (c *containerdSetup) fault() (code, text string) {
	switch {
	case c.criOff:
		return "", ""
	case len(c.mirrors) > 0 || c.tls && !c.set && c.release[0] < 2 && c.version <= 2:
		what := "`configs.*.tls`"
		if len(c.mirrors) > 0 {
			what = "`mirrors` for " + strings.Join(c.mirrors, ", ")
		}
		return codeConfigConflict, "has " + what + ", which containerd does not take together with config_path"
	case c.configPath == "" && c.shadowed != "":
		return codeConfigShadowed, fmt.Sprintf("has a section of CRI's plugin without config_path, which replaces that of %s as a whole, so containerd reads no hosts.toml", c.shadowed)
	case c.configPath == "":
		return codeConfigMissing, "config_path is not set, so containerd reads no hosts.toml"
	case len(filepath.SplitList(c.configPath)) > 1 && c.oneFolder():
		return codeConfigTwo, fmt.Sprintf("config_path is %q, of which containerd from 2.1 on reads nothing", c.configPath)
	}
	return "", ""
}

// configPath mends config_path, or says how to.
func (p *planner) configPath(c *containerdSetup) error {
	if c.criOff {
		p.note(Note{Code: codeCRIOff, Runtime: Containerd, Path: c.path, Text: "turns CRI off: what is written is for nerdctl and `ctr --hosts-dir`"})
	}
	code, text := c.fault()
	if code == "" {
		return nil
	}
	want := fmt.Sprintf("config_path = %q", c.folders()[0])
	section := registrySection(c.version)
	n := Note{Code: code, Runtime: Containerd, Path: c.editFile, Text: text, Problem: true,
		Remedy: fmt.Sprintf("write %s below %s there, or give --write-config-path; then restart containerd", want, header(section))}
	if code == codeConfigConflict {
		n.Remedy = fmt.Sprintf("move it to hosts.toml files in %s, write %s below %s and restart containerd", c.folders()[0], want, header(section))
	}
	if !p.WriteConfigPath || code == codeConfigConflict {
		p.note(n)
		return nil
	}
	d, err := p.draft(c.editFile)
	if err != nil {
		return err
	}
	if generated(d.base) {
		n.Remedy = "it is written anew at each start: set config_path in its template, config.toml.tmpl"
		p.note(n)
		return nil
	}
	if err := setConfigPath(d, section, c.version, want); err != nil {
		n.Remedy = fmt.Sprintf("it cannot be edited safely (%v): write %s below %s yourself, then restart containerd", err, want, header(section))
		p.note(n)
		return nil
	}
	return p.noteChange(Note{Code: codeRestart, Runtime: Containerd, Path: c.editFile, Text: "config_path is read at start only", Remedy: "systemctl restart containerd; containers keep running"}, d)
}

// setConfigPath puts the line want into the section.
func setConfigPath(d *draft, section []string, version int, want string) error {
	if !d.existed || len(d.base) == 0 {
		d.create(newFileText(fmt.Sprintf("version = %d", version), "", header(section), "  "+want), want)
		return nil
	}
	t, err := scanTOML(d.base)
	if err != nil {
		return err
	}
	if v := t.value(append(slices.Clone(section), "config_path")...); v.isString() {
		_, dir, _ := strings.Cut(want, " = ")
		d.add(edit{Offset: v.start, Old: string(t.src[v.start:v.end]), New: dir, Mark: dir})
	} else if i := t.table(section...); i >= 0 {
		d.add(t.insertLines(t.tables[i].body, block("  "+want), want))
	} else {
		d.add(t.insertLines(len(t.src), block(header(section), "  "+want), want))
	}
	var now containerdSetup
	if _, err := now.merge("", d.result()); err != nil || !strings.HasSuffix(want, strconv.Quote(now.configPath)) {
		d.edits = nil
		return fmt.Errorf("the section is written in an unusual way: %w", err)
	}
	return nil
}
