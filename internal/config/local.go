package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Local is what a seeder is told about repositories that are pushed to it
// (docs/registry.md).
type Local struct {
	LocalRepositories []string      `name:"local" group:"Local repositories" help:"prefix of repositories that are kept here and can be pushed to, like team (team and all below it), or * for every name without an upstream; repeatable"`
	LocalNames        []string      `name:"local-name" group:"Local repositories" help:"HOST[:PORT] under which clients know this registry, as in the names of its images; mirrors ask for it (?ns=); repeatable, the first is the one that is shown"`
	UploadExpiry      time.Duration `name:"upload-expiry" group:"Local repositories" help:"how long a push that stopped half-way can be resumed"`
}

func defaultLocal() Local {
	return Local{LocalNames: []string{"local"}, UploadExpiry: 24 * time.Hour}
}

// Repositories says the same in the words of pkg/registry.
func (c *Local) Repositories() registry.Local {
	return registry.Local{Names: c.LocalNames, Prefixes: c.LocalRepositories}
}

func (c *Local) localProblems(upstreams []Upstream) []Problem {
	var ps []Problem
	names := make([]string, len(upstreams))
	for i, u := range upstreams {
		names[i] = u.Name
	}
	if r, err := registry.NewResolver(slices.Compact(slices.Sorted(slices.Values(names))), ""); err == nil { // what is wrong with upstreams is told there
		if err := r.SetLocal(c.Repositories()); err != nil {
			ps = append(ps, Problem{Where: "--local, --local-name", What: err.Error(), Fix: "give --local a prefix like team or *, and --local-name the host name of this registry"})
		}
	}
	if c.UploadExpiry <= 0 {
		ps = append(ps, Problem{Where: "--upload-expiry", What: fmt.Sprintf("%v ends every push at once", c.UploadExpiry), Fix: "give a duration like 24h"})
	}
	return ps
}

// localWarnings are settings that may be meant but often are not. ruled tells
// whether there are rules about who may push.
func (c *Local) localWarnings(ruled bool) []Problem {
	if len(c.LocalRepositories) == 0 {
		return nil
	}
	var ps []Problem
	if !ruled {
		ps = append(ps, Problem{Where: "--local", What: "there are no rules: nobody may push or delete", Fix: "say with --allow who may, like --allow 'anyone pull+push **' (docs/security.md)"})
	}
	if slices.Equal(c.LocalNames, defaultLocal().LocalNames) {
		ps = append(ps, Problem{Where: "--local-name", What: "not given: hosts cannot pull local repositories through their peerd, which asks for them by this registry's host name", Fix: "give the HOST[:PORT] that stands in front of the images' names"})
	}
	return ps
}
