package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"errors"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Check says what is wrong with the loaded values, as an *Error, or nil. It
// looks at directories and files but changes nothing and uses no network.
func (l *Loader) Check() error {
	var r report
	r.l = l
	l.common.addresses(&r)
	l.common.swarm(&r)
	l.common.upstreams(&r)
	l.common.operation(&r)
	l.common.files(&r)
	r.problems = append(r.problems, l.check()...)
	return asErr(r.problems)
}

// Warnings are things that may be meant but often are not.
func (l *Loader) Warnings() []Problem { return l.warn() }

type report struct {
	l        *Loader
	problems []Problem
}

func (r *report) add(name, fix, format string, args ...any) {
	r.problems = append(r.problems, Problem{Where: r.l.where(name), What: fmt.Sprintf(format, args...), Fix: fix})
}

type listener struct {
	name, host string
	port       int
}

func (c *Common) addresses(r *report) {
	var all []listener
	for _, a := range []struct{ name, value string }{
		{"listen", c.Listen}, {"pieces-listen", c.PiecesListen}, {"admin-listen", c.AdminListen},
	} {
		host, port, err := splitHostPort(a.value)
		if err != nil {
			r.add(a.name, "give HOST:PORT, like 127.0.0.1:5050 or :5000", "%q: %v", a.value, err)
			continue
		}
		all = append(all, listener{a.name, host, port})
	}
	if len(c.P2PListen) == 0 {
		r.add("p2p-listen", "give one like /ip4/0.0.0.0/tcp/4001", "no address")
	}
	for _, s := range c.P2PListen {
		host, port, err := parseTCP(s)
		if err != nil {
			r.add("p2p-listen", "give a multiaddr like /ip4/0.0.0.0/tcp/4001", "%q: %v", s, err)
			continue
		}
		all = append(all, listener{"p2p-listen", host, port})
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.port != 0 && a.port == b.port && overlap(a.host, b.host) {
				r.add(a.name, "give each its own port", "port %d is also that of --%s", a.port, b.name)
			}
		}
	}
	for _, s := range c.Advertise {
		if !validHost(s) {
			r.add("advertise", "give a host name or an IP without a port", "%q", s)
		}
	}
	if c.Zone != "" && !zoneRE.MatchString(c.Zone) {
		r.add("zone", "use letters, digits, '.', '_' and '-', at most 63 of them", "%q is not a zone", c.Zone)
	}
}

var (
	zoneRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	hostRE = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?$`)
)

func validHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return len(s) <= 253 && hostRE.MatchString(s)
}

func splitHostPort(s string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			return "", 0, errors.New(ae.Err)
		}
		return "", 0, err
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not within 0 to 65535", p)
	}
	if host != "" && !validHost(host) {
		return "", 0, fmt.Errorf("%q is neither a host name nor an IP", host)
	}
	return host, port, nil
}

// parseTCP reads /ip4|ip6|dns.../HOST/tcp/PORT.
func parseTCP(s string) (host string, port int, err error) {
	m, err := multiaddr.NewMultiaddr(s)
	if err != nil {
		return "", 0, err
	}
	for _, code := range []int{multiaddr.P_IP4, multiaddr.P_IP6, multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6} {
		if v, err := m.ValueForProtocol(code); err == nil {
			host = v
		}
	}
	tcp, err := m.ValueForProtocol(multiaddr.P_TCP)
	if err != nil || host == "" {
		return "", 0, errors.New("wants an IP and a TCP port")
	}
	port, err = strconv.Atoi(tcp)
	return host, port, err
}

// overlap tells whether two hosts may stand for the same local address.
func overlap(a, b string) bool { return a == b || wildcard(a) || wildcard(b) }

func wildcard(host string) bool {
	if host == "" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsUnspecified()
}

func (c *Common) swarm(r *report) {
	if c.OpenSwarm && c.SwarmKey != "" {
		r.add("open-swarm", "remove one of the two", "an open swarm has no key, and --swarm-key is given (%s)", r.l.where("swarm-key"))
	}
	for _, s := range c.Bootstrap {
		if _, err := peer.AddrInfoFromString(s); err != nil {
			r.add("bootstrap", "give a multiaddr like /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo…", "%q: %v", s, err)
		}
	}
	if s := c.BootstrapDNS; s != "" {
		if host, port, err := splitHostPort(s); err != nil || host == "" || port == 0 {
			r.add("bootstrap-dns", "give NAME:PORT, like peerd.samara.svc:4001", "%q is not NAME:PORT", s)
		}
	}
}

func (c *Common) upstreams(r *report) {
	seen := map[string]bool{}
	for _, u := range c.Upstreams {
		if !registry.ValidUpstream(u.Name) {
			r.add("upstream", "name it as clients do: a host with an optional port", "%q is not an upstream's name", u.Name)
		}
		if seen[u.Name] {
			r.add("upstream", "give each once (index.docker.io and registry-1.docker.io are docker.io)", "%q is given twice", u.Name)
		}
		seen[u.Name] = true
		if err := checkURL(u.URL); err != nil {
			r.add("upstream", "give http://HOST[:PORT] or https://HOST[:PORT]", "%s: %v", u.Name, err)
		}
	}
	if d := c.DefaultUpstream; d != "" && len(c.Upstreams) > 0 && !seen[registry.CanonicalUpstream(d)] {
		names := make([]string, len(c.Upstreams))
		for i, u := range c.Upstreams {
			names[i] = u.Name
		}
		r.add("default-upstream", "name one of "+strings.Join(names, ", "), "%q is not an upstream", d)
	}
	if c.MaxConcurrent < 1 {
		r.add("max-concurrent", "give 1 or more", "%d requests at a time fetch nothing", c.MaxConcurrent)
	}
	if c.TagTTL < 0 {
		r.add("tag-ttl", "give 0 or more", "%v is negative", c.TagTTL)
	}
	if c.StaleIfError < 0 {
		r.add("stale-if-error", "give 0 or more", "%v is negative", c.StaleIfError)
	}
}

// checkURL accepts where a registry can answer. Its errors show no password.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URL", redact(s))
	case u.User != nil:
		return fmt.Errorf("%q has credentials in it; put them into the docker config.json instead", redact(s))
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q does not begin with http:// or https://", redact(s))
	case !validHost(u.Hostname()):
		return fmt.Errorf("%q has no valid host", s)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q has more than a host and a port; registries answer at /v2/", s)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("%q: port %s is not within 1 to 65535", s, p)
		}
	}
	return nil
}

func (c *Common) operation(r *report) {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		r.add("log-level", "give debug, info, warn or error", "%q is not a level", c.LogLevel)
	}
	if !slices.Contains([]string{"json", "console"}, c.LogFormat) {
		r.add("log-format", "give json or console", "%q is not a format", c.LogFormat)
	}
	if c.ShutdownGrace < 0 {
		r.add("shutdown-grace", "give 0 or more", "%v is negative", c.ShutdownGrace)
	}
}

func (c *Common) files(r *report) {
	if c.Data == "" {
		r.add("data", "give a directory", "is empty")
	} else if what := checkDir(c.Data); what != "" {
		r.add("data", "give a directory that this user can write, or change its owner (chown)", "%s", what)
	}
	if c.SwarmKey != "" {
		if f, err := os.Open(c.SwarmKey); err != nil {
			r.add("swarm-key", "copy the seeder's DATA/swarm.key there, readable for this user", "%s: %v", c.SwarmKey, bare(err))
		} else {
			_ = f.Close() // only opened to see whether it can be
		}
	}
	if c.DockerConfig != "" {
		if st, err := os.Stat(c.DockerConfig); err != nil {
			r.add("docker-config", "give the directory that has config.json", "%s: %v", c.DockerConfig, bare(err))
		} else if !st.IsDir() {
			r.add("docker-config", "give the directory, not config.json itself", "%s is not a directory", c.DockerConfig)
		}
	}
}

// checkDir says what keeps dir from being used or made; "" if nothing does.
func checkDir(dir string) string {
	st, err := os.Stat(dir)
	switch {
	case err == nil && !st.IsDir():
		return dir + " is not a directory"
	case err == nil:
		if syscall.Access(dir, accessRWX) != nil {
			return dir + " cannot be read and written by this user"
		}
		return ""
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%s: %v", dir, bare(err))
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if parent == dir {
		return dir + " does not exist"
	}
	if st, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		return checkDir(parent)
	} else if err == nil && st.IsDir() && syscall.Access(parent, accessRWX) != nil {
		return fmt.Sprintf("%s does not exist and cannot be made in %s by this user", dir, parent)
	}
	return checkDir(parent)
}

// accessRWX is R_OK|W_OK|X_OK of access(2).
const accessRWX = 4 | 2 | 1

func (c *Seeder) problems() []Problem { return nil }

// Warnings are settings that may be meant but often are not.
func (c *Seeder) Warnings() []Problem { return c.commonWarnings() }

func (c *Peerd) problems() []Problem {
	var ps []Problem
	if !c.OpenSwarm && c.SwarmKey == "" {
		ps = append(ps, Problem{Where: "--swarm-key", What: "not given, and neither is --open-swarm",
			Fix: "copy swarm.key from the seeder's data directory to this host and give --swarm-key FILE; or run seeder and peerd with --open-swarm where every host that reaches them may read every image"})
	}
	for _, s := range c.Seeders {
		if err := checkURL(s); err != nil {
			ps = append(ps, Problem{Where: "--seeder", What: err.Error(), Fix: "give the seeder's registry API, like http://10.0.0.1:5000"})
		}
	}
	if c.SeederID != "" {
		if _, err := peer.Decode(c.SeederID); err != nil {
			ps = append(ps, Problem{Where: "--seeder-id", What: fmt.Sprintf("%q: %v", c.SeederID, err), Fix: "`seeder status` shows the seeder's peer ID"})
		}
		if len(c.Seeders) > 1 {
			ps = append(ps, Problem{Where: "--seeder-id", What: "pins one seeder, and several are given", Fix: "give one --seeder, or no --seeder-id"})
		}
	}
	return ps
}

// Warnings are settings that may be meant but often are not.
func (c *Peerd) Warnings() []Problem {
	ps := c.commonWarnings()
	if len(c.Seeders) == 0 && len(c.Bootstrap) == 0 && c.BootstrapDNS == "" && !c.MDNS {
		ps = append(ps, Problem{Where: "--seeder", What: "no seeder and no other way to find peers: every pull goes to the upstream",
			Fix: "give --seeder URL, --bootstrap, --bootstrap-dns or --mdns"})
	}
	if host, _, err := splitHostPort(c.Listen); err == nil && !loopback(host) {
		ps = append(ps, Problem{Where: "--listen", What: c.Listen + " is not loopback: other hosts can pull through this mirror without credentials",
			Fix: "use 127.0.0.1 unless that is meant"})
	}
	return ps
}

func (c *Common) commonWarnings() []Problem {
	var ps []Problem
	if host, _, err := splitHostPort(c.AdminListen); err == nil && !loopback(host) {
		ps = append(ps, Problem{Where: "--admin-listen", What: c.AdminListen + " is not loopback: status and metrics name images and hosts",
			Fix: "let only your monitoring reach it"})
	}
	if c.OpenSwarm && c.TrustedNetwork {
		ps = append(ps, Problem{Where: "--trusted-network", What: "with --open-swarm, pieces go in clear to whoever asks", Fix: "use it on networks where that is fine"})
	}
	return ps
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
