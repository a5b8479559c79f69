package config

import (
	"fmt"
	"path/filepath"

	"github.com/samara-p2p/samara/internal/events"
)

// adminSocket is where the admin API listens by itself, in the data directory.
const adminSocket = "admin.sock"

// Operate is what a seeder is told about those who watch it (docs/operations.md).
type Operate struct {
	AccessLog     string   `name:"access-log" group:"Access log" help:"file that gets a JSON line for each request to the registry API; - is standard output; none by itself"`
	AccessLogSize ByteSize `name:"access-log-size" group:"Access log" help:"size at which the file is renamed to FILE.1, that one to FILE.2, and so on"`
	AccessLogKeep int      `name:"access-log-keep" group:"Access log" help:"how many renamed files stay; 0 is none"`

	Events string `name:"events" group:"Events" help:"YAML file of HTTP endpoints that are told of pushes, pulls and deletes (docs/events.md)"`

	AdminSocket string `name:"admin-socket" group:"Admin API" help:"socket at which seeder usage, purge, prewarm and others reach this seeder, for its own user alone; by itself admin.sock in the data directory; - is none (docs/admin-api.md)"`
}

func defaultOperate() Operate {
	return Operate{AccessLogSize: 100 << 20, AccessLogKeep: 5}
}

// AdminSocketPath is where the admin API listens on this host; "" for nowhere.
func (c *Seeder) AdminSocketPath() string {
	switch c.AdminSocket {
	case "-":
		return ""
	case "":
		if path := filepath.Join(c.Data, adminSocket); len(path) <= maxSocket {
			return path
		}
		return "" // operateWarnings tells
	}
	return c.AdminSocket
}

// maxSocket is what the system takes for the path of a socket, on every system.
const maxSocket = 103

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
	if socket := c.AdminSocket; len(socket) > maxSocket {
		ps = append(ps, Problem{Where: "--admin-socket", What: fmt.Sprintf("%s has more than %d bytes", socket, maxSocket), Fix: "give a shorter path; - is none"})
	}
	if c.Events != "" {
		if _, err := events.ReadEndpoints(c.Events); err != nil {
			ps = append(ps, Problem{Where: "--events", What: err.Error(), Fix: "docs/events.md tells what is in it"})
		}
	}
	return ps
}

func (c *Seeder) operateWarnings() []Problem {
	if c.AdminSocket != "" || c.AdminSocketPath() != "" {
		return nil
	}
	return []Problem{{Where: "--admin-socket", What: fmt.Sprintf("the path of %s in %s is longer than the %d bytes that a socket may have: there is none", adminSocket, c.Data, maxSocket),
		Fix: "give a path like /run/samara/admin.sock, or - for none"}}
}
