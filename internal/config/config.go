package config

import (
	"time"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Common is what both daemons are told.
type Common struct {
	Data string `name:"data" group:"Storage" help:"directory for content, keys and state; made when missing"`

	Listen       string   `name:"listen" group:"Addresses" help:"HOST:PORT of the registry API (peerd: of the mirror)"`
	P2PListen    []string `name:"p2p-listen" group:"Addresses" help:"multiaddr that libp2p listens on (TCP); repeatable"`
	PiecesListen string   `name:"pieces-listen" group:"Addresses" help:"HOST:PORT that gives pieces to peers"`
	AdminListen  string   `name:"admin-listen" group:"Addresses" help:"HOST:PORT of /healthz, /readyz, /metrics and /v1/status; keep it off public networks"`
	Advertise    []string `name:"advertise" group:"Addresses" help:"host name or IP that peers are told to dial instead of what the listen addresses say; repeatable"`
	Zone         string   `name:"zone" group:"Swarm" help:"failure domain or rack; peers prefer their own, so that a piece crosses zones about once"`

	SwarmKey       string   `name:"swarm-key" group:"Swarm" help:"file with the swarm's private key (swarm.key); only peers with the same key get anything"`
	OpenSwarm      bool     `name:"open-swarm" group:"Swarm" help:"use no swarm key: whoever reaches the ports may join and read every cached image"`
	Bootstrap      []string `name:"bootstrap" group:"Swarm" help:"multiaddr of a peer to join through, ending in /p2p/PEER-ID; repeatable"`
	BootstrapDNS   string   `name:"bootstrap-dns" group:"Swarm" help:"NAME:PORT to join through: every address of NAME is a peer (a headless Service), PORT is its pieces port"`
	MDNS           bool     `name:"mdns" group:"Swarm" help:"find peers on the local link by multicast DNS"`
	TrustedNetwork bool     `name:"trusted-network" group:"Swarm" help:"give pieces without TLS to peers that do the same: less CPU, but the network can read them; they are verified either way"`

	Upstreams       []Upstream    `name:"upstream" group:"Upstreams" help:"registry to fetch from, as NAME=URL, e.g. ghcr.io=https://ghcr.io, and after it, apart by spaces, options of this one (docs/upstreams.md); repeatable; those given replace the default list"`
	DefaultUpstream string        `name:"default-upstream" group:"Upstreams" help:"upstream meant by requests that name none; by itself docker.io where that is an upstream, else the only one there is, else none"`
	DockerConfig    string        `name:"docker-config" group:"Upstreams" help:"directory of the docker config.json with upstream credentials; by itself $DOCKER_CONFIG, else ~/.docker"`
	MaxConcurrent   int           `name:"max-concurrent" group:"Upstreams" help:"requests at a time to each upstream"`
	TagTTL          time.Duration `name:"tag-ttl" group:"Upstreams" help:"how long a tag is answered from memory before it is checked again; 0 checks every time"`
	StaleIfError    time.Duration `name:"stale-if-error" group:"Upstreams" help:"how old a remembered tag may be to answer with it while it cannot be checked; 0 never does"`
	NotFoundTTL     time.Duration `name:"not-found-ttl" group:"Upstreams" help:"how long an upstream's 404 is remembered; 0 asks again every time"`
	RateReserve     int           `name:"rate-limit-reserve" group:"Upstreams" help:"percent of an upstream's rate limit that is kept for pulls: with less left, cached tags are not checked but served as they are"`
	Offline         bool          `name:"offline" group:"Upstreams" help:"serve what is held, and connect to no upstream at all; what is missing is 404"`

	Quota ByteSize `name:"quota" group:"Storage" help:"bytes that content may take, like 50GiB; what was used longest ago goes first; 0 is no limit but the disk's"`
	Scrub
	Lazy

	LogLevel      string        `name:"log-level" group:"Operation" help:"debug, info, warn or error; can be changed while running (PUT /v1/log-level)"`
	LogFormat     string        `name:"log-format" group:"Operation" help:"json or console"`
	ShutdownGrace time.Duration `name:"shutdown-grace" group:"Operation" help:"how long responses under way may take to finish after SIGTERM"`
}

// Seeder is what `seeder serve` is started with.
type Seeder struct {
	Common
	Security
	Local
	Space
	ObjectStore
	Operate
}

// Peerd is what `peerd serve` is started with.
type Peerd struct {
	Common
	Private
	Deadlines
	Prewarm
	Seeders    []string `name:"seeder" group:"Swarm" help:"URL of a seeder's registry API; its peer ID, addresses and upstreams are learned there and kept; repeatable"`
	SeederID   string   `name:"seeder-id" group:"Swarm" help:"peer ID that the seeder must have; by itself the first one learned from its URL is kept"`
	SeederCA   string   `name:"seeder-ca" group:"Swarm" help:"PEM file of authorities for a --seeder with https://, besides the system's"`
	NoPrefetch bool     `name:"no-prefetch" group:"Operation" help:"fetch a layer only when a client asks for it, not as soon as its manifest is known"`
}

func defaultCommon() Common {
	return Common{
		Scrub:         defaultScrub(),
		Lazy:          Lazy{LazyNeeded},
		P2PListen:     []string{"/ip4/0.0.0.0/tcp/4001"},
		PiecesListen:  ":4002",
		AdminListen:   "127.0.0.1:9095",
		MaxConcurrent: 8,
		StaleIfError:  24 * time.Hour,
		RateReserve:   25,
		LogLevel:      "info",
		LogFormat:     "json",
		ShutdownGrace: 25 * time.Second,
	}
}

// DefaultSeeder is a seeder that nobody configured. A tag is checked with its
// upstream at most once a minute: a herd costs one request, and a moved tag
// shows within the time a person takes to wonder.
func DefaultSeeder() Seeder {
	c := Seeder{
		Common: defaultCommon(), Security: defaultSecurity(),
		Local: defaultLocal(), Space: defaultSpace(),
		ObjectStore: defaultObjectStore(), Operate: defaultOperate(),
	}
	c.Data = "/var/lib/samara/seeder"
	c.Listen = ":5000"
	c.TagTTL = time.Minute
	c.NotFoundTTL = 10 * time.Second
	c.Lazy = Lazy{LazyBackground} // what it keeps is for many, and the whole digest is worth knowing
	c.Upstreams = DefaultUpstreams()
	return c
}

// DefaultPeerd is a peerd that nobody configured. It listens on loopback only
// (contract 16), asks for every tag (contract 22), and has no upstreams of its
// own: it learns the seeder's.
func DefaultPeerd() Peerd {
	c := Peerd{Common: defaultCommon(), Private: defaultPrivate(), Deadlines: defaultDeadlines(), Prewarm: defaultPrewarm()}
	c.Data = "/var/lib/samara/peerd"
	c.Listen = "127.0.0.1:5050"
	return c
}

// Default is the name of the upstream meant by requests that name none, or
// "" when there is none. See the help of --default-upstream.
func (c *Common) Default() string { return DefaultOf(c.Upstreams, c.DefaultUpstream) }

// DefaultOf applies the rule of --default-upstream to any list, for a peerd
// whose list comes from its seeder.
func DefaultOf(list []Upstream, chosen string) string {
	if chosen != "" {
		return registry.CanonicalUpstream(chosen)
	}
	for _, u := range list {
		if u.Name == registry.DockerHub {
			return u.Name
		}
	}
	if len(list) == 1 {
		return list[0].Name
	}
	return ""
}
