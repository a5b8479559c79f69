package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Upstream is a registry that content comes from. What is not given for it is
// the daemon's own setting.
type Upstream struct {
	Name string // canonical, as clients name it: "docker.io"
	URL  string // where it answers: "https://registry-1.docker.io"

	Mirrors []string // URLs that are asked before URL, in this order
	Seeder  bool     // another seeder answers there: it is told which upstream is meant

	TagTTL       *time.Duration // nil: Common.TagTTL
	StaleIfError *time.Duration // nil: Common.StaleIfError
	NotFoundTTL  *time.Duration // nil: Common.NotFoundTTL

	Allow, Deny []string // patterns of repositories
	MaxBlob     ByteSize // 0: no limit

	Private string // whom content that is not public there is given to; "": Peerd.Private

	CredentialHelper string // NAME of a program docker-credential-NAME
	CredentialsFile  string // holds USER:PASSWORD
}

// Ages are how old answers about an upstream's names may be.
type Ages struct {
	TTL      time.Duration // a tag checked less than this ago is not checked again
	Stale    time.Duration // how old a tag may be that stands in for an upstream that fails
	NotFound time.Duration // how long a 404 is remembered
}

// Ages are those of an upstream, its own where it has such.
func (c *Common) Ages(upstream string) Ages {
	a := Ages{TTL: c.TagTTL, Stale: c.StaleIfError, NotFound: c.NotFoundTTL}
	for _, u := range c.Upstreams {
		if u.Name != upstream {
			continue
		}
		for _, o := range []struct{ age, own *time.Duration }{{&a.TTL, u.TagTTL}, {&a.Stale, u.StaleIfError}, {&a.NotFound, u.NotFoundTTL}} {
			if o.own != nil {
				*o.age = *o.own
			}
		}
	}
	return a
}

// DefaultUpstreams are the registries that need no configuration.
func DefaultUpstreams() []Upstream {
	return []Upstream{
		{Name: "docker.io", URL: "https://registry-1.docker.io"},
		{Name: "ghcr.io", URL: "https://ghcr.io"},
		{Name: "quay.io", URL: "https://quay.io"},
		{Name: "registry.k8s.io", URL: "https://registry.k8s.io"},
		{Name: "gcr.io", URL: "https://gcr.io"},
		{Name: "mcr.microsoft.com", URL: "https://mcr.microsoft.com"},
		{Name: "public.ecr.aws", URL: "https://public.ecr.aws"},
	}
}

// upstreamOption is one of the words after an upstream's URL.
type upstreamOption struct {
	key, help string
	set       func(u *Upstream, value string) error
	get       func(u *Upstream) []string
}

// upstreamOptions in the order in which they are printed.
var upstreamOptions = []upstreamOption{
	listOption("mirror", "URL that is asked before the upstream's own, which is asked when the mirror fails or lacks something; repeatable, in this order",
		func(u *Upstream) *[]string { return &u.Mirrors }),
	{"seeder", "`true`: another seeder answers there, and is told by `?ns=` which upstream is meant",
		func(u *Upstream, v string) (err error) {
			if u.Seeder, err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			return nil
		},
		func(u *Upstream) []string {
			if !u.Seeder {
				return nil
			}
			return []string{"true"}
		}},
	durationOption("tag-ttl", "instead of `tag-ttl`", func(u *Upstream) **time.Duration { return &u.TagTTL }),
	durationOption("stale-if-error", "instead of `stale-if-error`", func(u *Upstream) **time.Duration { return &u.StaleIfError }),
	durationOption("not-found-ttl", "instead of `not-found-ttl`", func(u *Upstream) **time.Duration { return &u.NotFoundTTL }),
	listOption("allow", "pattern of repositories that may be had; with one or more, no others; `*` stands for any part of a name up to a `/`, `**` also for slashes; repeatable",
		func(u *Upstream) *[]string { return &u.Allow }),
	listOption("deny", "pattern of repositories that may not be had, allowed or not; repeatable",
		func(u *Upstream) *[]string { return &u.Deny }),
	{"max-blob", "size of the largest blob that may be had",
		func(u *Upstream, v string) (err error) {
			u.MaxBlob, err = ParseByteSize(v)
			return err
		},
		func(u *Upstream) []string {
			if u.MaxBlob == 0 {
				return nil
			}
			return []string{u.MaxBlob.String()}
		}},
	stringOption("private", "`by-client`, `shared` or `never`: whom the mirrors of peerds give what is not public there; instead of `private` (docs/security.md). A seeder's counts for its peers",
		func(u *Upstream) *string { return &u.Private }),
	stringOption("credential-helper", "NAME: its credentials come from the program `docker-credential-NAME` (`ecr-login`, `gcr`, `acr-env`)",
		func(u *Upstream) *string { return &u.CredentialHelper }),
	stringOption("credentials-file", "file whose first line is `USER:PASSWORD`; read again at every login",
		func(u *Upstream) *string { return &u.CredentialsFile }),
}

func stringOption(key, help string, at func(*Upstream) *string) upstreamOption {
	return upstreamOption{key, help,
		func(u *Upstream, v string) error {
			*at(u) = v
			return nil
		},
		func(u *Upstream) []string {
			if *at(u) == "" {
				return nil
			}
			return []string{*at(u)}
		}}
}

func listOption(key, help string, at func(*Upstream) *[]string) upstreamOption {
	return upstreamOption{key, help,
		func(u *Upstream, v string) error {
			*at(u) = append(*at(u), v)
			return nil
		},
		func(u *Upstream) []string { return *at(u) }}
}

func durationOption(key, help string, at func(*Upstream) **time.Duration) upstreamOption {
	return upstreamOption{key, help,
		func(u *Upstream, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil {
				return fmt.Errorf("%q is not a duration like 90s, 5m or 24h", v)
			}
			*at(u) = &d
			return nil
		},
		func(u *Upstream) []string {
			if *at(u) == nil {
				return nil
			}
			return []string{formatDuration(**at(u))}
		}}
}

// parseUpstream reads NAME=URL and the options after it.
func parseUpstream(text string) (Upstream, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return Upstream{}, errors.New("empty: want NAME=URL, like ghcr.io=https://ghcr.io")
	}
	name, url, ok := strings.Cut(words[0], "=")
	if !ok {
		return Upstream{}, fmt.Errorf("%q: want NAME=URL, like ghcr.io=https://ghcr.io", redact(text))
	}
	u := Upstream{Name: registry.CanonicalUpstream(name), URL: strings.TrimSuffix(url, "/")}
	for _, w := range words[1:] {
		key, value, ok := strings.Cut(w, "=")
		o := optionNamed(key)
		if !ok || o == nil {
			return Upstream{}, fmt.Errorf("%s: %q is no option: want one of %s, as OPTION=VALUE", u.Name, redact(w), optionNames())
		}
		if err := o.set(&u, value); err != nil {
			return Upstream{}, fmt.Errorf("%s: %s: %w", u.Name, key, err)
		}
	}
	return u, nil
}

func optionNamed(key string) *upstreamOption {
	for i := range upstreamOptions {
		if upstreamOptions[i].key == key {
			return &upstreamOptions[i]
		}
	}
	return nil
}

func optionNames() string {
	names := make([]string, len(upstreamOptions))
	for i, o := range upstreamOptions {
		names[i] = o.key
	}
	return strings.Join(names, ", ")
}

// text is the URL and the options, as parseUpstream reads them. Passwords are
// redacted.
func (u *Upstream) text() string {
	words := []string{redact(u.URL)}
	for _, o := range upstreamOptions {
		for _, v := range o.get(u) {
			words = append(words, o.key+"="+redact(v))
		}
	}
	return strings.Join(words, " ")
}

// upstreamText turns what YAML has beside an upstream's name into the text that
// the flag takes: a URL, or a mapping of url and options.
func upstreamText(n *yaml.Node) (string, error) {
	wrong := errors.New("neither a URL nor a mapping")
	plain := func(n *yaml.Node) bool {
		return n.Kind == yaml.ScalarNode && n.Tag != "!!null" && !strings.ContainsAny(n.Value, " \t\n")
	}
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return n.Value, nil
	}
	if n.Kind != yaml.MappingNode {
		return "", wrong
	}
	url, words := "", []string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		values := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			values = v.Content
		}
		for _, v := range values {
			switch {
			case !plain(k) || !plain(v):
				return "", wrong
			case k.Value == "url":
				url = v.Value
			default:
				words = append(words, k.Value+"="+v.Value)
			}
		}
	}
	return strings.Join(append([]string{url}, words...), " "), nil
}

var (
	patternRE = regexp.MustCompile(`^[a-z0-9*]([a-z0-9*._/-]*[a-z0-9*])?$`)
	helperRE  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

// check reports options that cannot be meant.
func (u *Upstream) check(r *report) {
	for _, m := range u.Mirrors {
		if err := checkURL(m); err != nil {
			r.add("upstream", "give http://HOST[:PORT] or https://HOST[:PORT]", "%s: mirror: %v", u.Name, err)
		}
	}
	for _, p := range append(append([]string(nil), u.Allow...), u.Deny...) {
		if !patternRE.MatchString(p) {
			r.add("upstream", "write patterns like library/*, acme/** or *", "%s: %q matches no repository", u.Name, p)
		}
	}
	for _, d := range []struct {
		key string
		v   *time.Duration
	}{{"tag-ttl", u.TagTTL}, {"stale-if-error", u.StaleIfError}, {"not-found-ttl", u.NotFoundTTL}} {
		if d.v != nil && *d.v < 0 {
			r.add("upstream", "give 0 or more", "%s: %s: %v is negative", u.Name, d.key, *d.v)
		}
	}
	if u.Private != "" && !slices.Contains(privateWays, u.Private) {
		r.add("upstream", privateFix, "%s: private: %q", u.Name, u.Private)
	}
	if u.CredentialHelper != "" && !helperRE.MatchString(u.CredentialHelper) {
		r.add("upstream", "give what follows docker-credential- in the program's name, like ecr-login", "%s: credential-helper %q", u.Name, u.CredentialHelper)
	}
	if u.CredentialHelper != "" && u.CredentialsFile != "" {
		r.add("upstream", "remove one of the two", "%s has a credential-helper and a credentials-file", u.Name)
	}
	if u.CredentialsFile != "" {
		if f, err := os.Open(u.CredentialsFile); err != nil {
			r.add("upstream", "give a file with USER:PASSWORD that this user can read", "%s: credentials-file %s: %v", u.Name, u.CredentialsFile, bare(err))
		} else {
			_ = f.Close() // only opened to see whether it can be
		}
	}
}
