package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/samara-p2p/samara/internal/doctor"
	"github.com/samara-p2p/samara/pkg/hostconf"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Exit statuses of `peerd doctor`, by its verdict.
var doctorStatus = map[doctor.Verdict]int{doctor.Proven: exitOK, doctor.Bypassed: 10, doctor.Impaired: 11, doctor.Unproven: 12}

// doctorOptions are what `peerd doctor` is told.
type doctorOptions struct {
	setupOptions
	sockets  []string
	noCanary bool
}

// doctorFlags are those of serve that say something here.
var doctorFlags = append([]string{"admin-listen", "p2p-listen", "pieces-listen", "swarm-key"}, setupFlags...)

func newDoctor() *cobra.Command {
	o := &doctorOptions{}
	cmd := &cobra.Command{Use: "doctor", Short: "Prove that this host's image pulls go through the mirror, or say what is wrong", Args: cobra.NoArgs,
		Long: `Have each container runtime pull a tiny image that only this host's peerd has, and look
whether the request arrived; look at the runtimes' files, ports, seeder, peers, upstreams,
clock, disk and content. Each fault is named and has a remedy (docs/doctor.md). It ends within
20 s. peerd's --config file, flags and environment variables count here as well. As root it
sees more; what it could not see, it says.

Exit status: 0 proven, 1 failed, 2 wrong usage, 10 pulls do not go through the mirror,
11 they may, but something behind it is at fault, 12 no fault was found, and no runtime could be tried.`}
	fs := cmd.Flags()
	o.bindDoctor(fs)
	cmd.RunE = runs(func(cmd *cobra.Command) error {
		in, err := o.options(cmd)
		if err != nil {
			return &usageError{err}
		}
		return o.show(cmd, doctor.Run(cmd.Context(), in))
	})
	return cmd
}

func (o *doctorOptions) bindDoctor(fs *pflag.FlagSet) {
	o.bind(fs)
	fs.VisitAll(func(f *pflag.Flag) { f.Hidden = f.Hidden && !slices.Contains(doctorFlags, f.Name) })
	for _, name := range []string{"capabilities", "dial-timeout", "write-config-path"} { // of what setup writes
		fs.Lookup(name).Hidden = true
	}
	o.bindHost(fs)
	fs.StringSliceVar(&o.sockets, "socket", nil, "RUNTIME=PATH where containerd, docker or crio listens, if not in the usual place; repeatable")
	fs.BoolVar(&o.noCanary, "no-canary", false, "have no runtime pull; then nothing is proven")
}

// options are what the flags, peerd's configuration and setup's state come to.
func (o *doctorOptions) options(cmd *cobra.Command) (doctor.Options, error) {
	in := doctor.Options{Root: o.root, NoCanary: o.noCanary}
	if err := o.loader.Load(os.LookupEnv); err != nil {
		return in, err
	}
	h, err := hostconf.Open(o.root, o.state)
	if err != nil {
		return in, err
	}
	in.Host = h
	if in.Settings, err = o.doctorSettings(cmd, h); err != nil {
		return in, err
	}
	in.Mirror = in.Settings.Mirror
	if in.Admin, err = adminURL(o.c.AdminListen); err != nil {
		return in, err
	}
	for _, s := range o.sockets {
		name, path, ok := strings.Cut(s, "=")
		if !ok || !slices.Contains([]string{"containerd", "docker", "crio"}, name) {
			return in, fmt.Errorf("--socket %s: want containerd=PATH, docker=PATH or crio=PATH", s)
		}
		if in.Sockets == nil {
			in.Sockets = map[string]string{}
		}
		in.Sockets[name] = path
	}
	in.Ports = []doctor.Port{{Flag: "--listen", Addr: o.c.Listen}, {Flag: "--pieces-listen", Addr: o.c.PiecesListen}, {Flag: "--admin-listen", Addr: o.c.AdminListen}}
	for _, s := range o.c.P2PListen {
		if a, err := multiaddr.NewMultiaddr(s); err == nil {
			if _, addr, err := manet.DialArgs(a); err == nil {
				in.Ports = append(in.Ports, doctor.Port{Flag: "--p2p-listen", Addr: addr})
			}
		}
	}
	in.Data, in.Seeders, in.SeederCA, in.SwarmKey = o.c.Data, o.c.Seeders, o.c.SeederCA, o.c.SwarmKey
	return in, nil
}

// doctorSettings are what setup has applied, unless flags say otherwise; else what
// it would apply, as far as that is known without asking anybody.
func (o *doctorOptions) doctorSettings(cmd *cobra.Command, h *hostconf.Host) (hostconf.Settings, error) {
	s, applied, err := h.Applied()
	if err != nil {
		return s, err
	}
	given := slices.ContainsFunc([]string{"mirror", "registry", "runtime", "file", "listen"}, cmd.Flags().Changed)
	if applied && !given {
		return s, nil
	}
	s = hostconf.Settings{DialTimeout: o.dialTimeout}
	if err := o.target(cmd.Context(), &s, h); err != nil {
		return s, err
	}
	names := o.registries
	for _, u := range o.c.Upstreams {
		if len(o.registries) == 0 {
			names = append(names, u.Name)
		}
	}
	for _, n := range names {
		s.Registries = append(s.Registries, registry.CanonicalUpstream(n))
	}
	return s, nil
}

// adminURL is where an admin server that listens at an address is called.
func adminURL(listen string) (string, error) {
	if strings.Contains(listen, "://") {
		return strings.TrimSuffix(listen, "/"), nil
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("--admin-listen %q: want HOST:PORT or a URL", listen)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1" // a wildcard is where to listen, not where to call
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// show prints a report. Its faults are the command's error.
func (o *doctorOptions) show(cmd *cobra.Command, r *doctor.Report) error {
	w := cmd.OutOrStdout()
	if o.json {
		if err := printJSON(w, r); err != nil {
			return err
		}
	} else {
		showChecks(w, r, isTerminal(w))
	}
	status := doctorStatus[r.Verdict]
	switch {
	case status == exitOK:
		return nil
	case r.Verdict == doctor.Unproven:
		return &withStatus{error: errors.New("no fault was found, but no runtime could be tried"), status: status}
	}
	return &withStatus{error: errors.New(string(r.Verdict) + ": " + count(len(r.Faults()), "fault")), status: status}
}

// colours of results, on a terminal.
var colours = map[doctor.Result]string{doctor.OK: "\x1b[32m", doctor.Fault: "\x1b[31m", doctor.Warning: "\x1b[33m", doctor.Skipped: "\x1b[2m"}

// showChecks prints a line for each check, and one for each remedy.
func showChecks(w io.Writer, r *doctor.Report, colour bool) {
	width := 0
	for _, c := range r.Checks {
		width = max(width, len(c.Subject))
	}
	width = min(width, 32)
	for _, c := range r.Checks {
		result := fmt.Sprintf("%-8s", c.Result)
		if colour {
			result = colours[c.Result] + result + "\x1b[0m"
		}
		text := c.Text
		if c.Code != "" {
			text = c.Code + ": " + text
		}
		fmt.Fprintf(w, "%s %-13s %-*s  %s\n", result, c.Check, width, c.Subject, text)
		if c.Remedy != "" {
			fmt.Fprintf(w, "%8s %-13s %-*s  -> %s\n", "", "", width, "", c.Remedy)
		}
	}
}
