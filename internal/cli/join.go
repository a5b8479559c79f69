package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/hostconf"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// Where the package's unit looks.
const (
	unitConfig   = "/etc/samara/peerd.yaml"
	unitSwarmKey = "/etc/samara/swarm.key"
)

const (
	maxSwarmKey   = 64 << 10
	reloadTimeout = 10 * time.Second
)

// joining makes a host with the package's unit a peer.
type joining struct {
	cmd    *cobra.Command
	root   string
	seeder string
}

func newJoin() *cobra.Command {
	j := &joining{}
	cmd := &cobra.Command{Use: "join SEEDER-URL", Short: "Make this host a peer: settings, service, container runtimes",
		Args: cobra.ExactArgs(1),
		Long: `Make this host, with the package installed, a peer of a seeder. The seeder's swarm.key comes on
standard input:

  ssh root@SEEDER cat /var/lib/samara/seeder/swarm.key | peerd join http://SEEDER:5000

The seeder is asked whether the key is its own. Key and URL go to ` + unitSwarmKey + ` and
` + unitConfig + `; other settings there count and stay. Then peerd starts, the container
runtimes are made to ask it first ("peerd setup apply"), Docker and CRI-O reload their
settings, and what came of it is verified. Nothing else is restarted. Again is no harm.
"peerd setup undo" gives the runtimes' files back. The exit status is that of "peerd setup verify".`}
	cmd.Flags().StringVar(&j.root, "root", "/", "directory below which the host's files are, as for images of hosts; nothing is started there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		j.cmd, j.seeder = cmd, args[0]
		return runs(func(cmd *cobra.Command) error { return j.run(cmd.Context()) })(cmd, nil)
	}
	return cmd
}

func (j *joining) run(ctx context.Context) error {
	if err := j.write(ctx); err != nil {
		return err
	}
	if err := j.start(ctx); err != nil {
		return err
	}
	return j.setUp(ctx)
}

// load reads the settings that the unit reads.
func (j *joining) load() (*setupOptions, error) {
	o := &setupOptions{root: j.root, state: setupState}
	fs := pflag.NewFlagSet("setup", pflag.ContinueOnError)
	o.bind(fs)
	path := filepath.Join(j.root, unitConfig)
	if _, err := os.Stat(path); err == nil {
		if err := fs.Set("config", path); err != nil {
			return nil, err
		}
	}
	return o, o.loader.Load(os.LookupEnv)
}

// write puts key and seeder where the unit looks, once the seeder has said that
// they belong together.
func (j *joining) write(ctx context.Context) error {
	o, err := j.load()
	if err != nil {
		return err
	}
	known := slices.Contains(o.c.Seeders, j.seeder)
	if !known && len(o.c.Seeders) > 0 {
		return fmt.Errorf("this host has another seeder, %s: to change it, edit `seeder` in %s", strings.Join(o.c.Seeders, ", "), unitConfig)
	}
	if isTerminal(j.cmd.ErrOrStderr()) {
		fmt.Fprintln(j.cmd.ErrOrStderr(), "The seeder's swarm.key (/var/lib/samara/seeder/swarm.key there), then Ctrl-D:")
	}
	text, err := io.ReadAll(io.LimitReader(j.cmd.InOrStdin(), maxSwarmKey))
	if err != nil {
		return fmt.Errorf("read the swarm key: %w", err)
	}
	psk, err := p2p.ParseSwarmKey(text)
	if err != nil {
		return fmt.Errorf("no swarm key on standard input, but %d bytes that are %w; it is the seeder's file swarm.key", len(text), err)
	}
	client, err := daemon.IntroductionClient(o.c.SeederCA)
	if err != nil {
		return err
	}
	in, err := daemon.Introduce(ctx, client, j.seeder)
	if err != nil {
		return err
	}
	if own := p2p.Fingerprint(psk); in.SwarmKey != own {
		return fmt.Errorf("the key is not that seeder's: its fingerprint is %s, the seeder's %s; copy its swarm.key again", own, orElseOpen(in.SwarmKey))
	}

	key := filepath.Join(j.root, unitSwarmKey)
	if err := os.MkdirAll(filepath.Dir(key), 0o755); err != nil {
		return err
	}
	if err := p2p.SaveSwarmKey(key, psk); errors.Is(err, fs.ErrExist) {
		old, err := p2p.LoadSwarmKey(key)
		if err != nil {
			return err
		}
		if was := p2p.Fingerprint(old); was != in.SwarmKey {
			return fmt.Errorf("%s is the key of another swarm (fingerprint %s): remove it to join this one", unitSwarmKey, was)
		}
	} else if err != nil {
		return err
	}
	if known {
		return nil
	}
	return appendLine(filepath.Join(j.root, unitConfig), fmt.Sprintf("seeder: [%q]", j.seeder))
}

func orElseOpen(fingerprint string) string {
	if fingerprint == "" {
		return "none, for it is open (--open-swarm)"
	}
	return fingerprint
}

// appendLine adds a line to a file, which may end without a newline or not be there.
func appendLine(path, line string) error {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(before) > 0 && !strings.HasSuffix(string(before), "\n") {
		line = "\n" + line
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// here tells whether it is this very host, and systemd runs it.
func (j *joining) here() bool {
	_, err := os.Stat("/run/systemd/system")
	return j.root == "/" && err == nil
}

func (j *joining) start(ctx context.Context) error {
	if !j.here() {
		fmt.Fprintf(j.cmd.OutOrStdout(), "written; nothing is started: peerd serve --config %s --swarm-key %s\n", unitConfig, unitSwarmKey)
		return nil
	}
	// Of Type=notify: it is back when the mirror answers.
	if out, err := exec.CommandContext(ctx, "systemctl", "restart", "peerd").CombinedOutput(); err != nil {
		return fmt.Errorf("peerd does not start (journalctl -u peerd says why): %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// setUp is `peerd setup apply` and `verify`, with the reload between them.
func (j *joining) setUp(ctx context.Context) error {
	o, err := j.load()
	if err != nil {
		return err
	}
	h, err := hostconf.Open(o.root, o.state)
	if err != nil {
		return err
	}
	w := j.cmd.OutOrStdout()
	found := h.Detect()
	if j.ofDocker(found) {
		found = slices.DeleteFunc(found, func(r hostconf.Runtime) bool { return r == hostconf.Containerd })
		fmt.Fprintln(w, "containerd is left as it is: no kubelet is here, and Docker does not pull with it (peerd setup apply)")
	}
	for _, r := range found {
		o.runtimes = append(o.runtimes, string(r))
	}
	s, err := o.settings(ctx, h)
	if err != nil {
		return err
	}
	p, err := h.Plan(ctx, s)
	if err != nil {
		return err
	}
	if err := p.Commit(); err != nil {
		return err
	}
	for i := range p.Changes {
		shortly(w, &p.Changes[i])
	}
	if !j.here() {
		showNotes(w, p.Notes)
		return nil
	}
	for _, n := range p.Notes {
		if err := reload(ctx, n); err != nil {
			return err
		}
	}
	r, err := verified(ctx, h, s)
	if err != nil {
		return err
	}
	showProofs(w, r)
	return unproven(r)
}

// ofDocker tells whether containerd is there for dockerd alone, which has no use
// for CRI and its hosts.toml.
func (j *joining) ofDocker(found []hostconf.Runtime) bool {
	if !slices.Contains(found, hostconf.Docker) {
		return false
	}
	for _, sign := range []string{"/var/lib/kubelet", "/usr/bin/kubelet", "/usr/local/bin/kubelet", "/var/lib/rancher", "/var/lib/k0s", "/var/snap/microk8s"} {
		if _, err := os.Stat(filepath.Join(j.root, sign)); err == nil {
			return false
		}
	}
	return true
}

// reload has a runtime read its file, where the note says that it is enough: no
// container is touched by it.
func reload(ctx context.Context, n hostconf.Note) error {
	unit := map[hostconf.Runtime]string{hostconf.Docker: "docker", hostconf.Podman: "crio"}[n.Runtime]
	if n.Code != reloadNeeded || unit == "" || exec.CommandContext(ctx, "systemctl", "is-active", "--quiet", unit).Run() != nil {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "reload", unit).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl reload %s: %w: %s", unit, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// verified is a report, once runtimes have had the time to reload.
func verified(ctx context.Context, h *hostconf.Host, s hostconf.Settings) (*hostconf.Report, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(reloadTimeout); ; {
		r, err := h.Verify(ctx, s)
		if err != nil || time.Now().After(until) || !slices.ContainsFunc(r.Notes, func(n hostconf.Note) bool { return n.Code == reloadNeeded }) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
