package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/libp2p/go-libp2p/core/peer"

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
	l.common.scrub(&r)
	l.common.lazy(&r)
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
			r.add("bootstrap-dns", "give NAME:PORT, like peerd.samara.svc:4002", "%q is not NAME:PORT", s)
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
		u.check(r)
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
	if c.NotFoundTTL < 0 {
		r.add("not-found-ttl", "give 0 or more", "%v is negative", c.NotFoundTTL)
	}
	if c.RateReserve < 0 || c.RateReserve > 100 {
		r.add("rate-limit-reserve", "give 0 to 100", "%d is no percentage", c.RateReserve)
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
