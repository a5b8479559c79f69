package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
)

// Layers, from the bottom up. A package imports only packages of lower layers.
const (
	pure     = iota // no I/O, no goroutine, no clock: see pure_test.go
	adapters        // the disk, the network, the host's files; they never import one another
	engines         // what drives adapters
	plumbing        // internal/: configuration, observability, command output
	roles           // what a daemon is
	programs        // cmd/, and what makes releases of it
	trials          // test/: whole-system tests
)

var layerNames = []string{"pure", "adapter", "engine", "plumbing", "role", "program", "trial"}

// layers names the layer of every package; those below a named one (pkg/p2p/pb)
// belong to it. A new package needs a line here.
var layers = map[string]int{
	"pkg/piece":       pure,
	"pkg/scheduler":   pure,
	"pkg/p2p":         adapters,
	"pkg/store":       adapters,
	"pkg/upstream":    adapters,
	"pkg/hostconf":    adapters,
	"pkg/objectstore": adapters,
	"pkg/fetch":       engines,
	"pkg/registry":    engines,
	"internal":        plumbing,
	"pkg/auth":        plumbing,
	"pkg/mirror":      roles,
	"pkg/seed":        roles,
	"cmd":             programs,
	"packaging":       programs,
	"test":            trials,
}

// edges is every import between our packages, test files aside, with the
// reason it is allowed. To add one: go down a layer, say why, and look whether
// an interface declared by the importer would do instead.
var edges = map[string]map[string]string{
	"pkg/piece": {
		"pkg/piece/internal/pb": "payloads of its envelopes",
	},
	"pkg/scheduler": {
		"pkg/piece": "geometries and bitfields are its vocabulary",
	},
	"pkg/scheduler/sim": {
		"pkg/scheduler": "what it simulates",
		"pkg/piece":     "geometries and bitfields",
	},
	"pkg/p2p": {
		"pkg/p2p/pb": "its wire messages",
		"pkg/piece":  "limits and the CID of a blob",
	},
	"pkg/store": {
		"pkg/piece": "a partial blob is a geometry and a bitfield",
	},
	"pkg/fetch": {
		"pkg/piece":     "hashes each piece, opens and signs runs",
		"pkg/scheduler": "decides what to ask of whom",
		"pkg/p2p":       "neighbours, providers, pieces",
		"pkg/store":     "where pieces go and come from",
		"pkg/upstream":  "the last source",
	},
	"pkg/auth": {
		"internal/authorities": "by whom issuers are certified",
		"internal/audit":       "tells it what was done and what was refused",
		"pkg/registry":         "reads paths and answers as the handler behind it does",
	},
	"internal/admin": {
		"internal/audit":   "tells it who did what",
		"internal/events":  "shows how endpoints do",
		"internal/prewarm": "has hosts fetch images ahead",
		"internal/local":   "collects, restores, empties the trash",
		"internal/status":  "shows how upstreams do",
		"pkg/registry":     "platforms and errors",
	},
	"internal/prewarm": {
		"pkg/p2p":      "neighbours, and what they are told",
		"pkg/registry": "platforms, and kinds of errors",
	},
	"internal/events": {
		"internal/authorities": "by whom endpoints are certified",
		"pkg/auth":             "repositories of endpoints are written as in rules",
	},
	"internal/accesslog": {
		"pkg/registry": "reads paths as the handler behind it does",
	},
	"internal/front": {
		"internal/authorities": "by whom clients, and an ACME directory, are certified",
		"pkg/registry":         "a limit is answered as the registry answers",
	},
	"internal/cli": {
		"internal/admin":    "calls a running seeder",
		"internal/audit":    "checks an audit log",
		"internal/backup":   "saves and restores",
		"internal/config":   "commands check and print it",
		"internal/doctor":   "proves that pulls go through the mirror",
		"internal/daemon":   "configured upstreams, as the daemons see them, and a seeder's",
		"pkg/hostconf":      "sets up the host's runtimes",
		"internal/local":    "opens the repositories that images are moved to",
		"internal/prewarm":  "shows how far hosts are with images",
		"internal/status":   "prints a daemon's status page",
		"internal/transfer": "moves images in and out",
		"pkg/p2p":           "compares swarm keys before a host joins",
		"pkg/registry":      "names of images, platforms",
		"pkg/store":         "opens the store that images are moved to",
		"pkg/upstream":      "pulls images",
	},
	"internal/config": {
		"internal/events":    "checks a file of endpoints",
		"internal/front":     "networks of proxies have one syntax",
		"pkg/auth":           "rules and htpasswd files have one syntax",
		"pkg/objectstore":    "so have places in object stores",
		"pkg/registry":       "the names of upstreams have one syntax",
		"internal/retention": "the file of rules has one syntax",
	},
	"internal/config/refgen": {
		"internal/config": "writes docs/configuration.md from it",
	},
	"internal/local": {
		"internal/retention": "which tags stay",
		"pkg/piece":          "how large a blob can be",
		"pkg/registry":       "names, manifests, what a registry answers",
		"pkg/store":          "where what is pushed is kept",
	},
	"internal/backup": {
		"internal/datadir": "refuses what another version made",
		"pkg/registry":     "what a manifest names",
		"pkg/store":        "reads content beside a seeder, and fills a new store",
	},
	"internal/transfer": {
		"internal/datadir": "refuses what another version made",
		"internal/backup":  "does not work on what a restore has not finished",
		"internal/local":   "a seeder's own repositories are one place to move to",
		"pkg/registry":     "names, manifests and what they name",
		"pkg/store":        "what a seeder holds is one place to move from",
		"pkg/upstream":     "pulls from registries",
	},
	"internal/durable": {
		"pkg/fetch":       "what is kept is read and copied in its words",
		"pkg/objectstore": "where it is kept",
		"pkg/registry":    "what a client is told that pushes in vain",
		"pkg/store":       "what is copied",
	},
	"internal/visibility": {
		"pkg/registry": "names",
		"pkg/upstream": "what is asked for, and what failures mean",
	},
	"internal/report": {
		"pkg/fetch": "what a peer fetches",
		"pkg/p2p":   "by which it is told",
		"pkg/store": "what a peer holds",
	},
	"internal/scrub": {
		"pkg/store": "what is checked",
	},
	"internal/metadata": {
		"pkg/fetch":    "says in its words where content comes from",
		"pkg/registry": "names, tags, manifests",
		"pkg/upstream": "whom to ask, and what its failures mean",
	},
	"internal/handover": {
		"internal/obs": "sockets, with errors that say what to do",
	},
	"internal/tracing": {
		"pkg/registry": "names a span by what was asked for",
	},
	"internal/daemon": {
		"internal/tracing":     "sends traces, where that is asked for",
		"internal/authorities": "by whom a seeder is certified",
		"internal/handover":    "its process takes over from another, or is taken over from",
		"internal/backup":      "does not start on what a restore has not finished",
		"internal/datadir":     "does not start on what another version made",
		"internal/config":      "what to start",
		"internal/disk":        "looks how the disk does",
		"internal/obs":         "logs, metrics, the admin server",
		"internal/scrub":       "has the store checked",
		"internal/status":      "fills the status page",
		"pkg/fetch":            "starts the engine",
		"pkg/p2p":              "starts the node",
		"pkg/piece":            "opens the runs that the store kept",
		"pkg/registry":         "names",
		"pkg/store":            "opens the store",
		"pkg/upstream":         "makes the client",
	},
	"internal/doctor": {
		"internal/canary": "an image that proves a pull",
		"internal/daemon": "asks seeders who they are",
		"internal/disk":   "looks how the disk does where peerd cannot",
		"internal/status": "what peerd says of itself",
		"pkg/hostconf":    "reads the runtimes' files",
		"pkg/p2p":         "names a swarm key",
		"pkg/registry":    "names of images",
	},
	"internal/canary": {
		"pkg/registry": "is a backend of the mirror's handler",
	},
	"internal/status": {
		"internal/disk": "tells what was found of the disk",
	},
	"pkg/mirror": {
		"internal/canary":     "has canaries to be pulled",
		"internal/handover":   "has its turns in a process",
		"pkg/auth":            "shows its seeder that it has the swarm key",
		"internal/config":     "what to start",
		"internal/daemon":     "what both daemons start with",
		"internal/metadata":   "tags and manifests",
		"internal/prewarm":    "the metric of orders",
		"internal/report":     "tells its seeders of itself",
		"internal/status":     "tells about its seeders",
		"internal/visibility": "who may be given what",
		"pkg/fetch":           "gets blobs",
		"pkg/p2p":             "joins its seeder's swarm",
		"pkg/piece":           "the CID of what peers are asked about",
		"pkg/registry":        "speaks to the client",
		"pkg/upstream":        "a client for each seeder",
	},
	"pkg/seed": {
		"internal/handover":   "has its turns in a process",
		"internal/durable":    "what outlives the disk",
		"internal/status":     "tells about its object store",
		"pkg/objectstore":     "opens it",
		"internal/audit":      "who did what",
		"internal/accesslog":  "who asked for what",
		"internal/admin":      "what operators ask for",
		"internal/prewarm":    "has hosts fetch images ahead",
		"internal/console":    "what they look at",
		"internal/report":     "what peers tell of themselves",
		"internal/events":     "tells endpoints what clients did",
		"internal/front":      "TLS, proxies and limits",
		"pkg/auth":            "who may do what",
		"internal/config":     "what to start",
		"internal/daemon":     "what both daemons start with",
		"internal/local":      "the repositories that are pushed to",
		"internal/metadata":   "tags and manifests",
		"internal/visibility": "tells peers what is public",
		"pkg/fetch":           "gets and gives blobs",
		"pkg/p2p":             "introduces itself to peers",
		"pkg/registry":        "speaks to clients",
		"pkg/store":           "a full disk is an answer of its own",
		"pkg/upstream":        "kinds of upstream errors become answers",
	},
	"packaging/release": {
		"internal/cli": "man pages and completion come from the commands",
	},
	"cmd/peerd": {
		"internal/cli":    "its commands",
		"internal/config": "its flags",
		"pkg/mirror":      "what it runs",
	},
	"cmd/seeder": {
		"internal/cli":    "its commands",
		"internal/config": "its flags",
		"pkg/seed":        "what it runs",
	},
}

// layerOf is the layer of the package in dir, and whether it has one.
func layerOf(dir string) (int, bool) {
	for d := dir; d != "."; d = path.Dir(d) {
		if l, ok := layers[d]; ok {
			return l, true
		}
	}
	return 0, false
}

// forTests tells whether the package in dir is only for tests to import: an
// exported suite or a fake, as pkg/store/storetest.
func forTests(dir string) bool {
	return strings.HasSuffix(dir, "test") || strings.HasPrefix(dir, "test/")
}

// mayDepend tells why from may not import to by layer; "" if it may.
func mayDepend(from, to string) string {
	lf, ok := layerOf(from)
	if !ok {
		return "has no layer: name one in layers"
	}
	lt, ok := layerOf(to)
	switch {
	case !ok:
		return "imports " + to + ", which has no layer: name one in layers"
	case forTests(to) && !forTests(from):
		return "imports " + to + ", which is for tests only"
	case lf > lt, strings.HasPrefix(to, from+"/"):
		return ""
	case lf == lt && (lf == pure || lf == plumbing || lf == trials):
		return "" // the compiler sees to it that there is no circle
	case lf == lt && forTests(from) && strings.HasPrefix(from, to+"/"):
		return "" // the suite of the package itself
	}
	return fmt.Sprintf("imports %s: from layer %s to %s is not down", to, layerNames[lf], layerNames[lt])
}

// edgeFaults holds imports of non-test files to layers and edges.
func edgeFaults(tr *tree, edges map[string]map[string]string) []string {
	var faults []string
	for _, p := range tr.packages {
		if _, ok := layerOf(p.dir); !ok {
			faults = append(faults, p.dir+" has no layer: name one in layers")
			continue
		}
		for _, f := range p.nonTest() {
			for _, imported := range importsOf(f) {
				to := ours(imported)
				if to == "" {
					continue
				}
				if why := mayDepend(p.dir, to); why != "" {
					faults = append(faults, f.name+": "+why)
				} else if edges[p.dir][to] == "" && !forTests(p.dir) {
					faults = append(faults, fmt.Sprintf("%s: imports %s: not in edges; if it has to be, list it there with the reason", f.name, to))
				}
			}
		}
	}
	return faults
}

func TestEdges(t *testing.T) {
	report(t, edgeFaults(repository(t), edges))
}

// An edge that is listed is one that layers allow, and one that is used. One of
// a package that is not there yet does no harm.
func TestEdgesListIsRight(t *testing.T) {
	tr := repository(t)
	for from, tos := range edges {
		for to, reason := range tos {
			if why := mayDepend(from, to); why != "" {
				t.Errorf("edges: %s %s", from, why)
			}
			if reason == "" {
				t.Errorf("edges: %s to %s has no reason", from, to)
			}
			if tr.has(from) && tr.has(to) && !tr.imports(from, to) {
				t.Errorf("edges: %s does not import %s any more", from, to)
			}
		}
	}
}

func (tr *tree) has(dir string) bool {
	return slices.ContainsFunc(tr.packages, func(p *pkg) bool { return p.dir == dir && len(p.nonTest()) > 0 })
}

func (tr *tree) imports(from, to string) bool {
	for _, p := range tr.packages {
		if p.dir != from {
			continue
		}
		for _, f := range p.nonTest() {
			if slices.Contains(importsOf(f), module+"/"+to) {
				return true
			}
		}
	}
	return false
}
