package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// What pods need that set up the nodes of a cluster, beside apply and undo:
// a DaemonSet keeps its pods, so after apply something has to stay that holds
// nothing; and whoever uninstalls has to wait for the undo on all nodes.

// lookup gives the addresses of a host name, like net.Resolver.LookupNetIP.
type lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

// resolveTimeout bounds one look-up of a name.
const resolveTimeout = 10 * time.Second

// resolveHost is a URL with the address in place of its host name. Hosts do
// not ask a cluster's DNS, so the names of Services mean nothing to runtimes.
func resolveHost(ctx context.Context, find lookup, mirror string) (string, error) {
	u, err := url.Parse(mirror)
	if err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("--mirror %q: want http://HOST:PORT", mirror)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := find(ctx, "ip", u.Hostname())
	if err != nil {
		return "", fmt.Errorf("--mirror %s: %w; give its address instead, and no --resolve-mirror", mirror, err)
	}
	if len(ips) != 1 {
		// A Service has one. Several are a headless one's pods, on other hosts.
		return "", fmt.Errorf("--mirror %s: its name has %d addresses, and only one can be meant: name a Service with a cluster IP, or give the address", mirror, len(ips))
	}
	ip := ips[0].Unmap()
	switch port := u.Port(); {
	case port != "":
		u.Host = net.JoinHostPort(ip.String(), port)
	case ip.Is6():
		u.Host = "[" + ip.String() + "]"
	default:
		u.Host = ip.String()
	}
	return u.String(), nil
}

func newSetupHold() *cobra.Command {
	return &cobra.Command{Use: "hold", Short: "Do nothing until stopped: what stays of the pod that set up its node", Args: cobra.NoArgs, Hidden: true,
		RunE: runs(func(cmd *cobra.Command) error {
			<-cmd.Context().Done()
			return nil
		})}
}

func newSetupAwait() *cobra.Command {
	var all, done string
	var within time.Duration
	cmd := &cobra.Command{Use: "await", Short: "Wait until one headless Service has as many addresses as another", Args: cobra.NoArgs, Hidden: true,
		RunE: runs(func(cmd *cobra.Command) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), within)
			defer cancel()
			return awaitPods(ctx, net.DefaultResolver.LookupNetIP, time.Second, cmd.OutOrStdout(), all, done)
		})}
	cmd.Flags().StringVar(&all, "all", "", "name whose addresses are the pods of all nodes")
	cmd.Flags().StringVar(&done, "done", "", "name whose addresses are the pods that are done")
	cmd.Flags().DurationVar(&within, "within", 2*time.Minute, "how long to wait")
	_ = cmd.MarkFlagRequired("all")
	_ = cmd.MarkFlagRequired("done")
	return cmd
}

// awaitPods returns when done has at least as many addresses as all.
func awaitPods(ctx context.Context, find lookup, every time.Duration, w io.Writer, all, done string) error {
	said := ""
	for {
		a, errAll := addresses(ctx, find, all)
		d, errDone := addresses(ctx, find, done)
		err := errors.Join(errAll, errDone)
		if err == nil && d >= a {
			fmt.Fprintf(w, "%d of %d nodes are done\n", min(d, a), a)
			return nil
		}
		state := fmt.Sprintf("%d of %d nodes are done", d, a)
		if err != nil {
			state = err.Error()
		}
		if ctx.Err() == nil && state != said {
			fmt.Fprintln(w, state)
			said = state
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s; the others are away, or could not undo all: look at their pods, and see \"Uninstall\" in docs/kubernetes.md", said)
		case <-time.After(every):
		}
	}
}

// addresses counts those of a name. A name that is not there has none.
func addresses(ctx context.Context, find lookup, name string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := find(ctx, "ip", name)
	if e := (*net.DNSError)(nil); errors.As(err, &e) && e.IsNotFound {
		return 0, nil
	}
	return len(ips), err
}
