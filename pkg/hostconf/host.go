package hostconf

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// Runtime is a kind of program that pulls images.
type Runtime string

// The runtimes that can be set up.
const (
	Containerd Runtime = "containerd"
	Docker     Runtime = "docker"
	Podman     Runtime = "podman" // and all that use its files: CRI-O, skopeo, buildah
	BuildKit   Runtime = "buildkit"
)

// Runtimes are all of them.
func Runtimes() []Runtime { return []Runtime{Containerd, Docker, Podman, BuildKit} }

// DefaultRegistry stands for every registry that is not named, where a runtime
// has such a thing: containerd's certs.d/_default.
const DefaultRegistry = "_default"

// Settings say how a host is to be set up.
type Settings struct {
	Mirror     string    `json:"mirror"`     // its URL, as http://127.0.0.1:5050
	Registries []string  `json:"registries"` // as images name them: docker.io; DefaultRegistry for all others
	Runtimes   []Runtime `json:"runtimes"`
	// Files are where a runtime's file is, if not where it is by itself:
	// config.toml, daemon.json, registries.conf, buildkitd.toml.
	Files map[Runtime]string `json:"files,omitempty"`
	// TagsUpstream has clients ask the registry itself, with their own
	// credentials, what a tag is, and take only content from the mirror.
	TagsUpstream bool `json:"tagsUpstream,omitempty"`
	// DialTimeout is how long containerd waits for a mirror that drops packets.
	DialTimeout time.Duration `json:"dialTimeout"`
	// WriteConfigPath says to edit containerd's config.toml where it does not
	// make containerd read hosts.toml.
	WriteConfigPath bool `json:"writeConfigPath,omitempty"`
}

// Note is something that a person should know.
type Note struct {
	// Code is one word for what it is; docs/setup.md lists them.
	Code    string  `json:"code"`
	Runtime Runtime `json:"runtime,omitempty"`
	Path    string  `json:"path,omitempty"`
	Text    string  `json:"text"`
	Remedy  string  `json:"remedy,omitempty"` // what to do
	// Problem says that pulls pass the mirror by until somebody acts.
	Problem bool `json:"problem"`
}

func (n Note) String() string {
	s := n.Code
	if n.Runtime != "" {
		s = string(n.Runtime) + ": " + s
	}
	if n.Path != "" {
		s += ": " + n.Path
	}
	s += ": " + n.Text
	if n.Remedy != "" {
		s += "; " + n.Remedy
	}
	return s
}

// Host is the files of a host.
type Host struct {
	root     root
	stateDir string
	// run runs a program of the host; nil where only its files are here.
	run func(ctx context.Context, name string, args ...string) ([]byte, error)
	// started is when the oldest process of a program started; nil as run.
	started func(program string) time.Time
}

// Open gives the host whose files are below dir: "/", or a chroot. stateDir is
// where, on that host, is kept what undo needs.
func Open(dir, stateDir string) (*Host, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(stateDir) {
		return nil, fmt.Errorf("%s: the directory of the state has to be absolute", stateDir)
	}
	h := &Host{root: root{dir: abs, sync: (*os.File).Sync}, stateDir: filepath.Clean(stateDir)}
	if abs == "/" {
		h.run, h.started = runProgram, startOfProcess
	}
	return h, nil
}

// Applied are the settings that are in effect; ok is false where there are none.
func (h *Host) Applied() (s Settings, ok bool, err error) {
	st, err := h.load()
	if err != nil || st == nil {
		return Settings{}, false, err
	}
	return st.Settings, true, nil
}

// where a runtime shows that it is installed, by its program or its files.
var signs = map[Runtime][]string{
	Containerd: {"/usr/bin/containerd", "/usr/local/bin/containerd", "/etc/containerd", k3sConfig, rke2Config},
	Docker:     {"/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/etc/docker/daemon.json"},
	Podman:     {"/usr/bin/podman", "/usr/local/bin/podman", "/usr/bin/crio", "/usr/local/bin/crio", "/usr/bin/skopeo", "/usr/bin/buildah", "/etc/containers/registries.conf"},
	BuildKit:   {"/usr/bin/buildkitd", "/usr/local/bin/buildkitd", "/etc/buildkit"},
}

// Detect tells which runtimes are installed.
func (h *Host) Detect() []Runtime {
	var found []Runtime
	for _, r := range Runtimes() {
		if slices.ContainsFunc(signs[r], h.root.exists) {
			found = append(found, r)
		}
	}
	return found
}

// Bounds of what programs of the host may take and say.
const programTimeout = 10 * time.Second

// runProgram runs the program of a daemon that runs, which need not be the one that
// is found by its name; else that one.
func runProgram(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	if p, ok := oldestProcess(name); ok {
		name = fmt.Sprintf("/proc/%d/exe", p.PID)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	return cmd.Output()
}
