package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/samara-p2p/samara/internal/front"
	"github.com/samara-p2p/samara/pkg/auth"
)

// Security is what a seeder is told about who may do what (docs/security.md).
type Security struct {
	Allow         []string      `name:"allow" group:"Access" help:"rule, as 'WHO ACTIONS PATTERN...', e.g. 'group:dev pull+push team/**'; repeatable; once there is one, what no rule allows is refused (docs/security.md)"`
	Htpasswd      string        `name:"htpasswd" group:"Access" help:"file of users with bcrypt passwords (htpasswd -B); read again when it changes"`
	Groups        []string      `name:"group" group:"Access" help:"users of the htpasswd file that form a group, as NAME=USER+USER; repeatable"`
	Issuers       string        `name:"issuers" group:"Access" help:"YAML file of external issuers whose tokens are believed: OpenID providers, other token servers (docs/security.md)"`
	TokenLifetime time.Duration `name:"token-lifetime" group:"Access" help:"how long a token of the seeder's own is good for"`
	TokenRealm    string        `name:"token-realm" group:"Access" help:"URL of a token server elsewhere that clients are sent to; by itself the seeder gives tokens at /token"`
	TokenService  string        `name:"token-service" group:"Access" help:"name of this registry in tokens: their audience"`

	TLSCert           string        `name:"tls-cert" group:"TLS" help:"PEM file with the certificate of the registry API and its chain; read again when it changes"`
	TLSKey            string        `name:"tls-key" group:"TLS" help:"PEM file with the key of --tls-cert"`
	TLSClientCA       string        `name:"tls-client-ca" group:"TLS" help:"PEM file of authorities; a client certificate of theirs makes its common name a user, cert:NAME"`
	TLSClientRequired bool          `name:"tls-client-required" group:"TLS" help:"let nobody in who shows no certificate of --tls-client-ca, peerds included"`
	ACMEDomains       []string      `name:"acme-domain" group:"TLS" help:"host name to get certificates for by ACME, instead of --tls-cert; the authority's terms are agreed to, and it has to reach --listen as port 443 of this name; repeatable"`
	ACMEEmail         string        `name:"acme-email" group:"TLS" help:"address that the authority may write to"`
	ACMEDirectory     string        `name:"acme-directory" group:"TLS" help:"URL of the authority's ACME directory"`
	ACMECA            string        `name:"acme-ca" group:"TLS" help:"PEM file of authorities for --acme-directory's own TLS; by itself the system's"`
	HSTS              time.Duration `name:"hsts" group:"TLS" help:"how long browsers are told to come by TLS only; 0 does not tell them"`
	TrustedProxies    []string      `name:"trusted-proxy" group:"TLS" help:"IP or network, like 10.0.0.0/8, of a proxy that is believed whom it stands for; repeatable"`
	ProxyHeader       string        `name:"proxy-header" group:"TLS" help:"which headers --trusted-proxy writes: x-forwarded (X-Forwarded-For, -Proto, -Host) or forwarded (RFC 7239); the others are never believed"`

	RateLimit        int `name:"rate-limit" group:"Limits" help:"requests per second of one client address; 0 is no limit"`
	RateBurst        int `name:"rate-burst" group:"Limits" help:"requests that a client may save up while it sends none"`
	Uploads          int `name:"max-uploads" group:"Limits" help:"requests at a time that send content; 0 is no limit"`
	UploadsPerClient int `name:"max-uploads-per-client" group:"Limits" help:"the same of one user, or of one address where nobody logs in; 0 is no limit"`

	AuditLog   string   `name:"audit-log" group:"Audit" help:"file that says who did what, as JSON lines chained by hash (seeder audit verify); by itself there is none"`
	AuditPulls bool     `name:"audit-pulls" group:"Audit" help:"write pulls into it too, not only pushes, deletes, logins and refusals"`
	AuditSize  ByteSize `name:"audit-size" group:"Audit" help:"size at which the file is renamed and a new one begun"`
	AuditKeep  int      `name:"audit-keep" group:"Audit" help:"renamed files that are kept; 0 keeps all"`
}

func defaultSecurity() Security {
	return Security{
		TokenLifetime: 5 * time.Minute, TokenService: auth.DefaultService,
		ACMEDirectory: front.LetsEncrypt, ProxyHeader: front.ForwardedHeaders[0], HSTS: 365 * 24 * time.Hour,
		RateBurst: 1000, Uploads: 256, UploadsPerClient: 64,
		AuditPulls: true, AuditSize: 100 << 20,
	}
}

// Ruled tells whether somebody said who may do what. Where nobody did, everybody
// may pull, and nobody may push or delete.
func (c *Security) Ruled() bool { return len(c.Allow) > 0 || c.Issuers != "" }

// Rules reads --allow.
func (c *Security) Rules() (auth.Rules, error) {
	var rs auth.Rules
	for _, s := range c.Allow {
		r, err := auth.ParseRule(s)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// GroupsOf reads --group: the groups of each user.
func (c *Security) GroupsOf() (map[string][]string, error) {
	groups := map[string][]string{}
	for _, s := range c.Groups {
		name, users, ok := strings.Cut(s, "=")
		if !ok || name == "" || users == "" || strings.Contains(name, ":") {
			return nil, fmt.Errorf("%q: want NAME=USER+USER", s)
		}
		for _, u := range strings.Split(users, "+") {
			groups[u] = append(groups[u], name)
		}
	}
	return groups, nil
}

func (c *Security) problems() []Problem {
	var ps []Problem
	add := func(name, what, fix string) {
		ps = append(ps, Problem{Where: "--" + name, What: what, Fix: fix})
	}
	for _, s := range c.Allow {
		if _, err := auth.ParseRule(s); err != nil {
			add("allow", err.Error(), "docs/security.md tells how rules are written")
		}
	}
	if c.Htpasswd != "" && len(c.Allow) == 0 {
		add("allow", "not given, and users can log in: they may do nothing", "say who may do what, like --allow 'authenticated pull **'")
	}
	if c.Htpasswd != "" {
		if err := auth.CheckHtpasswd(c.Htpasswd); err != nil {
			add("htpasswd", err.Error(), "make it with `htpasswd -Bc FILE USER`, readable for this user")
		}
	}
	if c.Issuers != "" {
		if err := auth.CheckIssuers(c.Issuers); err != nil {
			add("issuers", err.Error(), "docs/security.md tells what is in it")
		}
	}
	if c.TokenRealm != "" && c.Issuers == "" {
		add("token-realm", "clients get tokens there, and none of them is believed", "give --issuers FILE with the server's keys")
	}
	if _, err := c.GroupsOf(); err != nil {
		add("group", err.Error(), "name users of the htpasswd file, like admins=alice+bob")
	}
	if c.TokenLifetime < time.Minute || c.TokenLifetime > 24*time.Hour {
		add("token-lifetime", fmt.Sprintf("%v is not within 1m to 24h", c.TokenLifetime), "clients take less than a minute for none")
	}
	if c.TokenService == "" || strings.ContainsAny(c.TokenService, "\"\\") {
		add("token-service", fmt.Sprintf("%q is no name", c.TokenService), "give a word or a host name")
	}
	if c.TokenRealm != "" {
		if u, err := url.Parse(c.TokenRealm); err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
			add("token-realm", fmt.Sprintf("%q is no URL without credentials", redact(c.TokenRealm)), "give https://HOST/PATH of the token server")
		}
	}
	return append(ps, c.transportProblems()...)
}

// ruleWarnings are about patterns that mean less, or more, than they look like.
// registries are the names that repositories can begin with.
func (c *Security) ruleWarnings(registries []string) []Problem {
	var ps []Problem
	for _, rule := range c.Allow {
		if _, err := auth.ParseRule(rule); err != nil {
			continue // told as a problem
		}
		for _, pattern := range strings.Fields(rule)[2:] {
			if begin, _, ok := strings.Cut(pattern, "**"); ok && begin != "" && !strings.HasSuffix(begin, "/") && !strings.HasSuffix(begin, "*") {
				ps = append(ps, Problem{Where: "--allow", What: fmt.Sprintf("%q: %s is also of names that go on with other letters, like %swork/app", rule, pattern, begin),
					Fix: "write " + begin + "/** for what is below it, unless that is meant"})
			}
			if !within(pattern, registries) {
				ps = append(ps, Problem{Where: "--allow", What: fmt.Sprintf("%q: %s is of no repository here: names begin with %s", rule, pattern, strings.Join(registries, "/ or ")+"/"),
					Fix: "write the registry's name first, like " + registries[0] + "/" + strings.TrimPrefix(pattern, "/")})
			}
		}
	}
	return ps
}

// within tells whether a pattern can be of a repository of one of the registries,
// as far as its text before a star says. Without any that is not known.
func within(pattern string, registries []string) bool {
	begin, _, starred := strings.Cut(pattern, "*")
	return len(registries) == 0 || slices.ContainsFunc(registries, func(r string) bool {
		return strings.HasPrefix(begin, r+"/") || starred && strings.HasPrefix(r+"/", begin)
	})
}

func (c *Security) warnings() []Problem {
	var ps []Problem
	if len(c.Groups) > 0 && c.Htpasswd == "" {
		ps = append(ps, Problem{Where: "--group", What: "names users of an htpasswd file, and there is none", Fix: "give --htpasswd FILE"})
	}
	if c.Htpasswd != "" && !c.encrypted() && len(c.TrustedProxies) == 0 {
		ps = append(ps, Problem{Where: "--htpasswd", What: "without TLS passwords cross the network in clear",
			Fix: "give --tls-cert and --tls-key; or --trusted-proxy, where a proxy has TLS"})
	}
	return ps
}
