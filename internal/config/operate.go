package config

import (
	"fmt"
	"path/filepath"

	"github.com/samara-p2p/samara/internal/events"
)

// Operate is what a seeder is told about those who watch it (docs/operations.md).
type Operate struct {
	AccessLog     string   `name:"access-log" group:"Access log" help:"file that gets a JSON line for each request to the registry API; - is standard output; none by itself"`
	AccessLogSize ByteSize `name:"access-log-size" group:"Access log" help:"size at which the file is renamed to FILE.1, that one to FILE.2, and so on"`
	AccessLogKeep int      `name:"access-log-keep" group:"Access log" help:"how many renamed files stay; 0 is none"`

	Events string `name:"events" group:"Events" help:"YAML file of HTTP endpoints that are told of pushes, pulls and deletes (docs/events.md)"`
}

func defaultOperate() Operate {
	return Operate{AccessLogSize: 100 << 20, AccessLogKeep: 5}
}

func (c *Operate) operateProblems(auditLog string) []Problem {
	var ps []Problem
	if c.AccessLog != "" && c.AccessLog != "-" && auditLog != "" && filepath.Clean(c.AccessLog) == filepath.Clean(auditLog) {
		ps = append(ps, Problem{Where: "--access-log", What: "is the file of --audit-log", Fix: "give each a file of its own"})
	}
	if c.AccessLogSize < 1<<20 {
		ps = append(ps, Problem{Where: "--access-log-size", What: fmt.Sprintf("%s is less than 1MiB", c.AccessLogSize), Fix: "give a size like 100MiB"})
	}
	if c.AccessLogKeep < 0 || c.AccessLogKeep > 1000 {
		ps = append(ps, Problem{Where: "--access-log-keep", What: fmt.Sprintf("%d is not within 0 to 1000", c.AccessLogKeep), Fix: "give the number of files"})
	}
	if c.Events != "" {
		if _, err := events.ReadEndpoints(c.Events); err != nil {
			ps = append(ps, Problem{Where: "--events", What: err.Error(), Fix: "docs/events.md tells what is in it"})
		}
	}
	return ps
}
