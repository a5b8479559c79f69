package config

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/samara-p2p/samara/pkg/auth"
)

// Security is what a seeder is told about who may do what (docs/security.md).
type Security struct {
	Allow         []string      `name:"allow" group:"Access" help:"rule, as 'WHO ACTIONS PATTERN...', e.g. 'group:dev pull+push team/**'; repeatable; once there is one, what no rule allows is refused (docs/security.md)"`
	Htpasswd      string        `name:"htpasswd" group:"Access" help:"file of users with bcrypt passwords (htpasswd -B); read again when it changes"`
	Groups        []string      `name:"group" group:"Access" help:"users of the htpasswd file that form a group, as NAME=USER+USER; repeatable"`
	TokenLifetime time.Duration `name:"token-lifetime" group:"Access" help:"how long a token of the seeder's own is good for"`
	TokenRealm    string        `name:"token-realm" group:"Access" help:"URL of a token server elsewhere that clients are sent to; by itself the seeder gives tokens at /token"`
	TokenService  string        `name:"token-service" group:"Access" help:"name of this registry in tokens: their audience"`
}

func defaultSecurity() Security {
	return Security{TokenLifetime: 5 * time.Minute, TokenService: auth.DefaultService}
}

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

// logins tells whether there is any way to be somebody.
func (c *Security) logins() bool { return c.Htpasswd != "" || c.TokenRealm != "" }

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
	if c.logins() && len(c.Allow) == 0 {
		add("allow", "not given, and users can log in: they may do nothing", "say who may do what, like --allow 'authenticated pull **'")
	}
	if c.Htpasswd != "" {
		if err := auth.CheckHtpasswd(c.Htpasswd); err != nil {
			add("htpasswd", err.Error(), "make it with `htpasswd -Bc FILE USER`, readable for this user")
		}
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
	return ps
}

func (c *Security) warnings() []Problem {
	var ps []Problem
	if len(c.Groups) > 0 && c.Htpasswd == "" {
		ps = append(ps, Problem{Where: "--group", What: "names users of an htpasswd file, and there is none", Fix: "give --htpasswd FILE"})
	}
	return ps
}
