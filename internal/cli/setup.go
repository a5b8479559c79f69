package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/hostconf"
	"github.com/samara-p2p/samara/pkg/registry"
)

// setupOptions are what the commands below `peerd setup` are told.
type setupOptions struct {
	c      *config.Peerd
	loader *config.Loader

	root, state     string
	json            bool
	mirror          string
	registries      []string
	runtimes        []string
	files           []string
	capabilities    []string
	dialTimeout     time.Duration
	writeConfigPath bool
	resolveMirror   bool
}

const (
	setupState   = "/var/lib/samara/setup"
	reloadNeeded = "reload-needed" // a note's code
)

// setupFlags are those of serve that say something here.
var setupFlags = []string{"config", "data", "listen", "seeder", "seeder-ca", "upstream"}

func newSetup() *cobra.Command {
	cmd := &cobra.Command{Use: "setup", Short: "Make the container runtimes of this host use the mirror", Args: cobra.NoArgs,
		Long: `Make containerd, Docker, Podman, CRI-O and BuildKit ask this host's mirror first, prove that they
do, and take it back. What was there stays, and is asked after the mirror.
Nothing is restarted; where that is needed, the output says so. See docs/setup.md.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(
		setupCommand("plan", "Show what apply would change, as a unified diff, and change nothing", true, (*setupOptions).plan),
		setupCommand("apply", "Change the files of the runtimes; what undo needs is kept in --state", true, (*setupOptions).apply),
		setupCommand("verify", "Prove that the runtimes ask the mirror, and that it answers", true, (*setupOptions).verify),
		setupCommand("undo", "Give every file back as it was, but for what others have edited since", false, (*setupOptions).undo),
		newSetupHold(), newSetupAwait(),
	)
	return cmd
}

func setupCommand(name, short string, settings bool, do func(*setupOptions, *cobra.Command, *hostconf.Host) error) *cobra.Command {
	o := &setupOptions{}
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, Long: short + "."}
	fs := cmd.Flags()
	if settings {
		o.bind(fs)
		cmd.Long += "\n\nThe mirror and its registries are those of peerd: its --config file, flags and\nenvironment variables count here as well."
	}
	if name == "verify" {
		cmd.Long += ` Without any of them it verifies
what was applied.

Exit status: 0 proven, 1 failed, 2 wrong usage, else the lowest that applies:
10 a runtime does not ask the mirror, or not first; 11 containerd reads no hosts.toml;
12 a runtime has to be restarted or reloaded; 13 the mirror does not answer;
14 something else answers.`
	}
	o.bindHost(fs)
	cmd.RunE = runs(func(cmd *cobra.Command) error {
		h, err := hostconf.Open(o.root, o.state)
		if err != nil {
			return err
		}
		return do(o, cmd, h)
	})
	return cmd
}

func (o *setupOptions) bind(fs *pflag.FlagSet) {
	o.c, o.loader = config.NewPeerd()
	o.loader.Bind(fs)
	fs.VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains(setupFlags, f.Name) })
	fs.StringVar(&o.mirror, "mirror", "", "URL of the mirror; by itself http:// and --listen")
	fs.BoolVar(&o.resolveMirror, "resolve-mirror", false, "look the --mirror's host name up now and write its address, as for a Service, whose name hosts do not know")
	fs.StringSliceVar(&o.registries, "registry", nil, "registry whose images come through the mirror, as docker.io; _default for all without files of their own (containerd); repeatable; by itself the --upstreams, else those of the seeder, and _default")
	fs.StringSliceVar(&o.runtimes, "runtime", nil, "containerd, docker, podman (and CRI-O, skopeo, buildah) or buildkit; repeatable; by itself all that are installed")
	fs.StringSliceVar(&o.files, "file", nil, "RUNTIME=PATH of its file, where it is not in the usual place; repeatable")
	fs.StringSliceVar(&o.capabilities, "capabilities", []string{"pull", "resolve"}, "what the mirror is asked for; with `pull` alone clients ask the registry what a tag is, with their own credentials")
	fs.DurationVar(&o.dialTimeout, "dial-timeout", 500*time.Millisecond, "how long containerd (2.1 and later) waits for a mirror that drops packets; 0 writes none")
	fs.BoolVar(&o.writeConfigPath, "write-config-path", false, "edit containerd's config.toml where it does not make containerd read hosts.toml")
}

// bindHost adds the flags that say where the host's files are.
func (o *setupOptions) bindHost(fs *pflag.FlagSet) {
	fs.StringVar(&o.root, "root", "/", "directory below which the host's files are, for chroots and hostPath mounts")
	fs.StringVar(&o.state, "state", setupState, "directory below --root for what undo needs")
	fs.BoolVar(&o.json, "json", false, "print the result as JSON")
}

// settings are what the flags and peerd's configuration come to.
func (o *setupOptions) settings(ctx context.Context, h *hostconf.Host) (hostconf.Settings, error) {
	s := hostconf.Settings{DialTimeout: o.dialTimeout, WriteConfigPath: o.writeConfigPath}
	var err error
	if err = o.loader.Load(os.LookupEnv); err == nil {
		s.TagsUpstream, err = tagsUpstream(o.capabilities)
	}
	if err == nil {
		err = o.target(ctx, &s, h)
	}
	if err != nil {
		return s, err
	}
	if len(s.Runtimes) == 0 {
		return s, fmt.Errorf("no container runtime is installed below %s: name one with --runtime", o.root)
	}
	s.Registries, err = o.registriesOf(ctx)
	return s, err
}

// target fills in the mirror, the runtimes and their files.
func (o *setupOptions) target(ctx context.Context, s *hostconf.Settings, h *hostconf.Host) (err error) {
	if s.Mirror = o.mirror; s.Mirror == "" {
		if s.Mirror, err = mirrorURL(o.c.Listen); err != nil {
			return err
		}
	}
	if o.resolveMirror {
		if s.Mirror, err = resolveHost(ctx, net.DefaultResolver.LookupNetIP, s.Mirror); err != nil {
			return err
		}
	}
	for _, r := range o.runtimes {
		s.Runtimes = append(s.Runtimes, hostconf.Runtime(r))
	}
	if len(s.Runtimes) == 0 {
		s.Runtimes = h.Detect()
	}
	for _, f := range o.files {
		name, path, ok := strings.Cut(f, "=")
		if !ok {
			return fmt.Errorf("--file %s: want RUNTIME=PATH", f)
		}
		if s.Files == nil {
			s.Files = map[hostconf.Runtime]string{}
		}
		s.Files[hostconf.Runtime(name)] = path
	}
	return nil
}

func tagsUpstream(capabilities []string) (bool, error) {
	list := slices.Clone(capabilities)
	slices.Sort(list)
	switch strings.Join(list, ",") {
	case "pull":
		return true, nil
	case "pull,resolve":
		return false, nil
	}
	return false, fmt.Errorf("--capabilities %s: want pull, or pull,resolve", strings.Join(capabilities, ","))
}

// mirrorURL is how clients on this host reach a listen address.
func mirrorURL(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return "", fmt.Errorf("--listen %q: want HOST:PORT, or give --mirror", listen)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// registriesOf are the registries whose images come through the mirror.
func (o *setupOptions) registriesOf(ctx context.Context) ([]string, error) {
	var names []string
	add := func(name string) {
		if name = registry.CanonicalUpstream(name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range o.registries {
		add(r)
	}
	if len(names) > 0 {
		return names, nil
	}
	for _, u := range o.c.Upstreams {
		add(u.Name)
	}
	if len(names) == 0 {
		upstreams, err := o.introduced(ctx)
		if err != nil {
			return nil, fmt.Errorf("which registries? the seeder cannot be asked (%w): name them with --registry", err)
		}
		for _, u := range upstreams {
			add(u.Name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("which registries? name them with --registry, or the seeder that knows them with --seeder")
	}
	return append(names, hostconf.DefaultRegistry), nil
}

// introduced are the upstreams of the seeders, as they say, or, if none
// answers, as peerd remembers.
func (o *setupOptions) introduced(ctx context.Context) ([]daemon.IntroduceUpstream, error) {
	client, err := daemon.IntroductionClient(o.c.SeederCA)
	if err != nil {
		return nil, err
	}
	var all []daemon.IntroduceUpstream
	var errs []error
	for _, u := range o.c.Seeders {
		in, err := daemon.Introduce(ctx, client, u)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, in.Upstreams...)
	}
	if len(all) > 0 {
		return all, nil
	}
	var memory map[string]struct {
		Introduction *daemon.Introduction `json:"introduction"`
	}
	if b, err := os.ReadFile(filepath.Join(o.root, o.c.Data, "seeder.json")); err == nil && json.Unmarshal(b, &memory) == nil {
		for _, m := range memory {
			if m.Introduction != nil {
				all = append(all, m.Introduction.Upstreams...)
			}
		}
	}
	if len(all) > 0 {
		slices.SortFunc(all, func(a, b daemon.IntroduceUpstream) int { return strings.Compare(a.Name, b.Name) })
		return all, nil
	}
	return nil, errors.Join(errs...)
}

func (o *setupOptions) planned(cmd *cobra.Command, h *hostconf.Host) (*hostconf.Plan, error) {
	s, err := o.settings(cmd.Context(), h)
	if err != nil {
		return nil, err
	}
	return h.Plan(cmd.Context(), s)
}

func (o *setupOptions) plan(cmd *cobra.Command, h *hostconf.Host) error {
	p, err := o.planned(cmd, h)
	if err != nil {
		return err
	}
	return o.show(cmd, p, func(w io.Writer, c *hostconf.Change) { fmt.Fprint(w, c.Diff()) }, "nothing to change")
}

func (o *setupOptions) apply(cmd *cobra.Command, h *hostconf.Host) error {
	p, err := o.planned(cmd, h)
	if err != nil {
		return err
	}
	if err := p.Commit(); err != nil {
		return err
	}
	return o.show(cmd, p, shortly, "nothing to change")
}

func (o *setupOptions) undo(cmd *cobra.Command, h *hostconf.Host) error {
	p, err := h.PlanUndo()
	if err != nil {
		return err
	}
	if err := p.Commit(); err != nil {
		return err
	}
	return o.show(cmd, p, shortly, "nothing to undo")
}

// shortly says what was done to a file.
func shortly(w io.Writer, c *hostconf.Change) {
	what := "changed"
	switch {
	case !c.Existed:
		what = "made"
	case !c.Exists:
		what = "removed"
	}
	fmt.Fprintln(w, what, c.Path)
}

// show prints a plan. Problems that are left are the command's error.
func (o *setupOptions) show(cmd *cobra.Command, p *hostconf.Plan, one func(io.Writer, *hostconf.Change), none string) error {
	w := cmd.OutOrStdout()
	if o.json {
		type change struct {
			Path string `json:"path"`
			Diff string `json:"diff"`
		}
		doc := struct {
			Changes []change        `json:"changes"`
			Notes   []hostconf.Note `json:"notes"`
		}{[]change{}, append([]hostconf.Note{}, p.Notes...)}
		for i := range p.Changes {
			doc.Changes = append(doc.Changes, change{p.Changes[i].Path, p.Changes[i].Diff()})
		}
		if err := printJSON(w, doc); err != nil {
			return err
		}
	} else {
		for i := range p.Changes {
			one(w, &p.Changes[i])
		}
		if len(p.Changes) == 0 {
			fmt.Fprintln(w, none)
		}
		showNotes(w, p.Notes)
	}
	if n := len(p.Problems()); n > 0 {
		return &withStatus{error: errors.New("left to you: " + count(n, "problem")), status: exitPart}
	}
	return nil
}

func showNotes(w io.Writer, notes []hostconf.Note) {
	for _, n := range notes {
		kind := "note: "
		if n.Problem {
			kind = "problem: "
		}
		fmt.Fprintln(w, kind+n.String())
	}
}

func (o *setupOptions) verify(cmd *cobra.Command, h *hostconf.Host) error {
	s, applied, err := h.Applied()
	if err != nil {
		return err
	}
	given := false
	cmd.Flags().Visit(func(f *pflag.Flag) { given = given || !slices.Contains([]string{"root", "state", "json"}, f.Name) })
	if given || !applied {
		if s, err = o.settings(cmd.Context(), h); err != nil {
			return err
		}
	}
	r, err := h.Verify(cmd.Context(), s)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if o.json {
		if err := printJSON(w, r); err != nil {
			return err
		}
	} else {
		showProofs(w, r)
	}
	return unproven(r)
}

func showProofs(w io.Writer, r *hostconf.Report) {
	for _, p := range r.Proofs {
		fmt.Fprintf(w, "%s: %s: asks %s first (%s)\n", p.Runtime, p.Registry, r.Mirror, p.Path)
	}
	showNotes(w, r.Notes)
}

// unproven is the error of a report with problems; its status is the lowest of
// theirs.
func unproven(r *hostconf.Report) error {
	e := &withStatus{}
	n := 0
	for _, note := range r.Notes {
		if !note.Problem {
			continue
		}
		n++
		if s := verifyStatus(note.Code); e.status == 0 || s < e.status {
			e.status = s
		}
	}
	if n == 0 {
		return nil
	}
	e.error = errors.New("not proven: " + count(n, "problem"))
	return e
}

// verifyStatus is the exit status for a problem's code.
func verifyStatus(code string) int {
	switch {
	case strings.HasPrefix(code, "config-path-"):
		return 11
	case code == "restart-needed", code == reloadNeeded:
		return 12
	case code == "mirror-down":
		return 13
	case code == "mirror-is-another":
		return 14
	}
	return 10
}
