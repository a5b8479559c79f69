package status

import "time"

// Status is everything a daemon says about itself.
type Status struct {
	Daemon        string    `json:"daemon"` // "seeder" or "peerd"
	Version       string    `json:"version"`
	PID           int       `json:"pid"`
	PeerID        string    `json:"peerId"`
	Addrs         []string  `json:"addrs"`       // p2p multiaddrs
	PiecesAddrs   []string  `json:"piecesAddrs"` // host:port of the data plane
	Listen        string    `json:"listen"`      // registry API or mirror
	Zone          string    `json:"zone,omitempty"`
	StartedAt     time.Time `json:"startedAt"`
	UptimeSeconds int64     `json:"uptimeSeconds"`

	Swarm     Swarm      `json:"swarm"`
	Seeders   []Seeder   `json:"seeders,omitempty"` // peerd: the seeders it is set to
	Peers     []Peer     `json:"peers"`
	Blobs     []Blob     `json:"blobs"` // under way, and those that ended lately
	Bytes     Bytes      `json:"bytes"`
	Clients   Clients    `json:"clients"`
	Store     Store      `json:"store"`
	Scrub     Scrub      `json:"scrub"`
	Upstreams []Upstream `json:"upstreams"`
	// ObjectStore is where a seeder that has one keeps content for good.
	ObjectStore *ObjectStore `json:"objectStore,omitempty"`
	Liars       []Liar       `json:"liars"`
	Warnings    []Warning    `json:"warnings,omitempty"`
}

// Swarm is this daemon's place in the network of peers.
type Swarm struct {
	Open           bool   `json:"open"`                     // no key: anybody may join
	KeyFingerprint string `json:"keyFingerprint,omitempty"` // safe to show; equal on peers that can talk
	Neighbours     int    `json:"neighbours"`
	DHTPeers       int    `json:"dhtPeers"`
}

// Seeder is one that a peerd is set to.
type Seeder struct {
	URL       string `json:"url"`
	ID        string `json:"id,omitempty"`
	Reachable bool   `json:"reachable"`
	LastError string `json:"lastError,omitempty"`
}

// Peer is a neighbour, or one that was.
type Peer struct {
	ID           string  `json:"id"`
	Zone         string  `json:"zone,omitempty"`
	Seeder       bool    `json:"seeder,omitempty"`
	Addr         string  `json:"addr,omitempty"`
	Agent        string  `json:"agent,omitempty"`
	RTTMillis    float64 `json:"rttMillis,omitempty"` // 0: not measured
	BytesFrom    int64   `json:"bytesFrom"`
	BytesTo      int64   `json:"bytesTo"`
	BadPieces    int     `json:"badPieces,omitempty"` // pieces that did not match their hash
	Banned       bool    `json:"banned,omitempty"`
	BannedReason string  `json:"bannedReason,omitempty"`
}

// BlobState is where a blob is on its way.
type BlobState string

// The states of a blob.
const (
	Fetching BlobState = "fetching"
	Complete BlobState = "complete"
	Failed   BlobState = "failed"
)

// Blob is one blob's progress.
type Blob struct {
	Digest          string    `json:"digest"`
	Source          string    `json:"source,omitempty"` // "docker.io/library/nginx"
	Size            int64     `json:"size"`             // 0: not known yet
	Have            int64     `json:"have"`             // bytes held
	Pieces          int       `json:"pieces"`           // pieces held
	PieceCount      int       `json:"pieceCount"`
	State           BlobState `json:"state"`
	Peers           int       `json:"peers"`   // neighbours in this blob's swarm
	Readers         int       `json:"readers"` // clients waiting for it
	RateBytesPerSec int64     `json:"rateBytesPerSec"`
	BytesBySource   Sources   `json:"bytesBySource"`
	BytesGiven      int64     `json:"bytesGiven"` // to peers, since the swarm began
	StartedAt       time.Time `json:"startedAt"`
	EndedAt         time.Time `json:"endedAt,omitzero"`
	Error           string    `json:"error,omitempty"`
	Corrupt         bool      `json:"corrupt,omitempty"` // it failed since the bytes on offer do not match the digest
}

// Sources splits bytes by where they came from.
type Sources struct {
	Peers    int64 `json:"peers"`
	Seeder   int64 `json:"seeder"`
	Upstream int64 `json:"upstream"`
	// ObjectStore is what a seeder with one had there.
	ObjectStore int64 `json:"objectStore,omitempty"`
}

// Bytes are totals since the daemon started.
type Bytes struct {
	FromPeers    int64 `json:"fromPeers"`
	FromSeeder   int64 `json:"fromSeeder"`
	FromUpstream int64 `json:"fromUpstream"`
	// FromObjectStore is what a seeder with one had there.
	FromObjectStore int64 `json:"fromObjectStore,omitempty"`
	ToPeers         int64 `json:"toPeers"`
	ToClients       int64 `json:"toClients"`
	Wasted          int64 `json:"wasted"` // received and thrown away: bad or twice
}

// Clients are the container clients of the registry API or mirror. No request
// for long is how a mirror that is bypassed shows.
type Clients struct {
	Requests    int64     `json:"requests"`
	LastRequest time.Time `json:"lastRequest,omitzero"`
	// Of peerd: what was asked for lately, and by which programs, the latest
	// first. Not all that there ever were.
	Repositories []Asked `json:"repositories,omitempty"`
	Agents       []Asked `json:"agents,omitempty"`
	// Mismatches are requests of peerd's clients that were refused since the
	// bytes on offer do not match their digest.
	Mismatches int64 `json:"mismatches,omitempty"`
}

// Asked is a repository that was asked for, or a program that asked.
type Asked struct {
	Name string    `json:"name"`
	Last time.Time `json:"last"`
}

// Store is what lies on disk.
type Store struct {
	Path     string `json:"path,omitempty"`
	Used     int64  `json:"used"`
	Quota    int64  `json:"quota"` // 0: none
	Complete int    `json:"complete"`
	Partial  int    `json:"partial"`

	Prefixes []Prefix `json:"prefixes,omitempty"` // quotas of what is fetched
}

// Scrub is the check of what lies on disk: the round under way, or the last one.
type Scrub struct {
	Running bool      `json:"running"`
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"` // the last round
	Next    time.Time `json:"next,omitzero"`  // when a round begins by itself
	Blobs   int64     `json:"blobs"`          // checked
	Bytes   int64     `json:"bytes"`          // checked
	Total   int64     `json:"total,omitempty"`
	Found   int64     `json:"found"` // of the blobs checked, those that were damaged
	Error   string    `json:"error,omitempty"`
	Damaged []Damaged `json:"damaged"` // now
}

// Damaged is a blob whose content proved wrong and has not been had again.
type Damaged struct {
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"`
	Sources []string  `json:"sources,omitempty"` // repositories
	Kept    bool      `json:"kept,omitempty"`    // it was pushed here
	Tries   int       `json:"tries"`             // to have it again
	Next    time.Time `json:"next,omitzero"`     // the next one; zero: now
	Error   string    `json:"error,omitempty"`   // of the last one
}

// Prefix is what content of the repositories below a prefix takes.
type Prefix struct {
	Prefix string `json:"prefix"`
	Used   int64  `json:"used"`
	Quota  int64  `json:"quota"`
}

// ObjectStore is how a seeder's object store is.
type ObjectStore struct {
	Location string    `json:"location"`          // s3://BUCKET/PREFIX
	Copies   int       `json:"copies"`            // pulled blobs that wait to be copied there
	Pending  int       `json:"pending"`           // links in which it and the disk may differ
	Copying  bool      `json:"copying,omitempty"` // what was pushed before there was one is being copied
	Error    string    `json:"error,omitempty"`   // why it does not work
	Since    time.Time `json:"since,omitzero"`    // of Error
}

// Upstream is one registry's account.
type Upstream struct {
	Name         string    `json:"name"`
	URL          string    `json:"url"`
	Default      bool      `json:"default,omitempty"`
	Requests     int64     `json:"requests"`
	Bytes        int64     `json:"bytes"`
	Errors       int64     `json:"errors"`
	Corrupt      int64     `json:"corrupt,omitempty"` // of Errors, answers that did not match their digest
	LastError    string    `json:"lastError,omitempty"`
	BlockedUntil time.Time `json:"blockedUntil,omitzero"` // 429
	Breaker      string    `json:"breaker,omitempty"`     // "closed"; "open" or "probing": it fails, and is not asked
	ProbeAt      time.Time `json:"probeAt,omitzero"`      // when it is tried again
	RateLimit    int       `json:"rateLimit,omitempty"`   // requests in its window, where it says so
	RateLeft     int       `json:"rateLeft,omitempty"`    // of these, by estimate
}

// Liar is a peer that sent bytes which did not match.
type Liar struct {
	ID     string    `json:"id"`
	Addr   string    `json:"addr,omitempty"`
	Bad    int       `json:"bad"`
	Digest string    `json:"digest,omitempty"` // the last blob it lied about
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // ban's end
}

// Warning is something an operator should act on.
type Warning struct {
	Code   string `json:"code"` // stable, one of WarningCodes
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// WarningCodes are those of all warnings; docs/operations.md says what to do.
var WarningCodes = []string{
	"content-damaged",
	"events-failing",
	"isolated",
	"object-store-failing",
	"scrub-stopped",
	"seeder-not-connected",
	"seeder-refused",
	"seeder-silent",
	"seeder-unreachable",
	"upstream-failing",
}
