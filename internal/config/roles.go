package config

import (
	"fmt"
	"os"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/pkg/registry"
)

func (c *Seeder) problems() []Problem {
	return slices.Concat(c.Security.problems(), c.localProblems(c.Upstreams), c.spaceProblems(), c.objectStoreProblems(), c.operateProblems(c.AuditLog))
}

// Warnings are settings that may be meant but often are not.
func (c *Seeder) Warnings() []Problem {
	return slices.Concat(c.commonWarnings(), c.Security.warnings(), c.Security.ruleWarnings(c.registries()), c.localWarnings(c.Ruled()), c.operateWarnings(),
		c.spaceWarnings(c.LocalRepositories), c.objectStoreWarnings(c.Quota), c.privateWarnings())
}

// registries are the names that the names of repositories begin with.
func (c *Seeder) registries() []string {
	var names []string
	for _, u := range c.Upstreams {
		names = append(names, registry.CanonicalUpstream(u.Name))
	}
	if len(c.LocalRepositories) > 0 && len(c.LocalNames) > 0 {
		names = append(names, registry.CanonicalUpstream(c.LocalNames[0]))
	}
	return names
}

func (c *Peerd) problems() []Problem {
	ps := slices.Concat(c.Private.problems(), c.Deadlines.problems(), c.Prewarm.problems())
	if !c.OpenSwarm && c.SwarmKey == "" {
		ps = append(ps, Problem{Where: "--swarm-key", What: "not given, and neither is --open-swarm",
			Fix: "copy swarm.key from the seeder's data directory to this host and give --swarm-key FILE; or run seeder and peerd with --open-swarm where every host that reaches them may read every image"})
	}
	for _, s := range c.Seeders {
		if err := checkURL(s); err != nil {
			ps = append(ps, Problem{Where: "--seeder", What: err.Error(), Fix: "give the seeder's registry API, like http://10.0.0.1:5000"})
		}
	}
	if c.SeederCA != "" {
		if _, err := os.ReadFile(c.SeederCA); err != nil {
			ps = append(ps, Problem{Where: "--seeder-ca", What: fmt.Sprintf("%s: %v", c.SeederCA, bare(err)), Fix: "give a PEM file that this user can read"})
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
	ps := slices.Concat(c.commonWarnings(), c.Deadlines.warnings())
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
