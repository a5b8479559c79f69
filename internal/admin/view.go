package admin

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/status"
)

const (
	defaultPage = 50
	maxPage     = 500
)

// Viewer tells what a seeder knows of its swarm and of its content.
type Viewer interface {
	Swarm() Swarm
	Peers(p Page, zone string) Peers
	// Pulls tells of all, or with a repository of the hosts of its pull.
	Pulls(p Page, repository string) Pulls
	// Repository errors: *registry.Error, *Error.
	Repository(ctx context.Context, name string, p Page) (Repository, error)
	// Eviction tells what would go to make room for so many bytes.
	Eviction(bytes int64) Eviction
	// AuditTail returns the last lines of the audit log, the last one first.
	// Errors: *Error where there is none.
	AuditTail(lines int) ([]audit.Event, error)
}

// Page is a part of a list, of what has a text in it.
type Page struct {
	Match         string
	Limit, Offset int
}

// Swarm is the whole of it, in numbers that fit a page however many peers it has.
type Swarm struct {
	Version   string           `json:"version"`
	PeerID    string           `json:"peerId"`
	Zone      string           `json:"zone,omitempty"`
	StartedAt time.Time        `json:"startedAt"`
	Zones     []Zone           `json:"zones"` // the one with most peers first
	Total     Zone             `json:"total"` // of all zones
	Pulls     PullCounts       `json:"pulls"`
	Seeder    SeederBytes      `json:"seeder"`
	Store     StoreUsage       `json:"store"`
	Prefixes  []PrefixUsage    `json:"prefixes"` // those with a quota
	Liars     []status.Liar    `json:"liars"`
	Warnings  []status.Warning `json:"warnings"`
	Scrub     status.Scrub     `json:"scrub"`
}

// Zone is the peers of one.
type Zone struct {
	Zone     string    `json:"zone"`
	Peers    int       `json:"peers"`
	Pulling  int       `json:"pulling"`  // of these, get something now
	Stuck    int       `json:"stuck"`    // of those that pull, get nothing for long
	Silent   int       `json:"silent"`   // tell nothing of themselves
	Rate     int64     `json:"rate"`     // bytes per second received
	Held     int64     `json:"held"`     // bytes of content
	Received PeerBytes `json:"received"` // since their start
}

// PeerBytes are bytes that peers received, by source.
type PeerBytes struct {
	Near     int64 `json:"near"` // from peers of the same zone
	Far      int64 `json:"far"`  // from peers of other zones
	Seeder   int64 `json:"seeder"`
	Upstream int64 `json:"upstream"`
}

// PullCounts are the pulls in progress.
type PullCounts struct {
	Repositories int `json:"repositories"`
	Hosts        int `json:"hosts"`
	Stuck        int `json:"stuck"` // hosts
}

// SeederBytes are a seeder's own, since its start.
type SeederBytes struct {
	FromUpstream    int64 `json:"fromUpstream"`
	FromObjectStore int64 `json:"fromObjectStore"`
	ToPeers         int64 `json:"toPeers"`
	ToClients       int64 `json:"toClients"`
}

// PrefixUsage is what the repositories below a prefix take.
type PrefixUsage struct {
	Prefix string `json:"prefix"`
	Local  bool   `json:"local"` // pushed here
	Used   int64  `json:"used"`
	Quota  int64  `json:"quota"`
}

// Peers is a part of the list of them.
type Peers struct {
	Total int    `json:"total"` // of those that match
	Peers []Peer `json:"peers"`
}

// Peer is a host of the swarm.
type Peer struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Zone      string    `json:"zone"`
	Addr      string    `json:"addr,omitempty"`
	Agent     string    `json:"agent,omitempty"`
	Seeder    bool      `json:"seeder,omitempty"` // another one
	State     string    `json:"state"`            // idle, pulling, stuck, silent, banned
	RTTMillis float64   `json:"rttMillis,omitempty"`
	Reported  time.Time `json:"reported,omitzero"` // when it told of itself last
	Rate      int64     `json:"rate"`              // bytes per second received
	Held      int64     `json:"held"`              // bytes of content
	Quota     int64     `json:"quota"`             // 0: none
	Received  PeerBytes `json:"received"`
	ToPeers   int64     `json:"toPeers"`
	ToClients int64     `json:"toClients"`
	BadPieces int       `json:"badPieces,omitempty"`
}

// Pulls are those in progress.
type Pulls struct {
	Total int        `json:"total"` // of those that match
	Pulls []Pull     `json:"pulls"` // the one with most hosts first
	Hosts []PullHost `json:"hosts"` // of the repository that was asked for
}

// Pull is what hosts get of one repository now.
type Pull struct {
	Repository string       `json:"repository"` // its canonical name; "" where it is not known
	Hosts      int          `json:"hosts"`
	Done       int          `json:"done"`   // of the hosts, have all
	Stuck      int          `json:"stuck"`  // get nothing for long
	Failed     int          `json:"failed"` // without a blob
	Seeder     bool         `json:"seeder"` // the seeder itself fetches it; where no host does, the rest is about that
	Size       int64        `json:"size"`   // bytes of all hosts together
	Have       int64        `json:"have"`
	Rate       int64        `json:"rate"` // bytes per second
	Received   BytesOfBlobs `json:"received"`
	Began      time.Time    `json:"began"`
}

// BytesOfBlobs are bytes received of blobs, by source.
type BytesOfBlobs struct {
	Peers    int64 `json:"peers"`
	Seeder   int64 `json:"seeder"`
	Upstream int64 `json:"upstream"`
}

// PullHost is one host of a pull.
type PullHost struct {
	ID       string       `json:"id"`
	Name     string       `json:"name"`
	Zone     string       `json:"zone"`
	State    string       `json:"state"` // pulling, stuck, silent, failed, done
	Blobs    int          `json:"blobs"`
	Size     int64        `json:"size"`
	Have     int64        `json:"have"`
	Rate     int64        `json:"rate"`
	Received BytesOfBlobs `json:"received"`
	Moved    time.Time    `json:"moved"` // when something came last
	Error    string       `json:"error,omitempty"`
}

// Repository is one, with what its tags are and who holds them.
type Repository struct {
	Repository string `json:"repository"`
	Local      bool   `json:"local"`
	Total      int    `json:"total"` // tags that match
	Tags       []Tag  `json:"tags"`
}

// Tag is one of a repository.
type Tag struct {
	Tag     string     `json:"tag"`
	Digest  string     `json:"digest"`
	Checked time.Time  `json:"checked,omitzero"` // when the upstream said so last
	Images  []TagImage `json:"images"`           // those that are here, by platform
}

// TagImage is what a tag means for one platform.
type TagImage struct {
	Platform string   `json:"platform,omitempty"`
	Digest   string   `json:"digest"`
	Size     int64    `json:"size"` // bytes of its blobs
	Blobs    int      `json:"blobs"`
	Here     int      `json:"here"`    // of the blobs, are complete at the seeder
	All      int      `json:"all"`     // peers that hold all blobs
	Some     int      `json:"some"`    // peers that hold a part of them
	Holders  []Holder `json:"holders"` // some of those that hold all
}

// Holder is a host that holds an image.
type Holder struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Zone string `json:"zone"`
}

// Eviction is what would be evicted.
type Eviction struct {
	Asked        int64              `json:"asked"` // bytes
	Bytes        int64              `json:"bytes"` // that would go; fewer than asked for where no more may
	Blobs        int                `json:"blobs"`
	Repositories []EvictedFromThese `json:"repositories"` // the one that loses most first
}

// EvictedFromThese is what one repository would lose. What several have counts
// for each.
type EvictedFromThese struct {
	Repository string    `json:"repository"` // "" where it is not known
	Bytes      int64     `json:"bytes"`
	Blobs      int       `json:"blobs"`
	LastUse    time.Time `json:"lastUse"` // the latest
}

// AuditLines are lines of the audit log, the last one first.
type AuditLines struct {
	Lines []audit.Event `json:"lines"`
}

// views are the operations that show the swarm and its content.
func (s *Server) views() []route {
	return []route{
		handle("GET", "/swarm", http.StatusOK, func(*http.Request, none) (Swarm, error) { return s.o.View.Swarm(), nil }),
		handle("GET", "/peers", http.StatusOK, func(r *http.Request, _ none) (Peers, error) {
			p, err := pageOf(r)
			if err != nil {
				return Peers{}, err
			}
			return s.o.View.Peers(p, r.URL.Query().Get("zone")), nil
		}),
		handle("GET", "/pulls", http.StatusOK, func(r *http.Request, _ none) (Pulls, error) {
			p, err := pageOf(r)
			if err != nil {
				return Pulls{}, err
			}
			return s.o.View.Pulls(p, r.URL.Query().Get("repository")), nil
		}),
		handle("GET", "/repository", http.StatusOK, func(r *http.Request, _ none) (Repository, error) {
			name := r.URL.Query().Get("name")
			p, err := pageOf(r)
			if err == nil && name == "" {
				err = &Error{http.StatusBadRequest, "name is missing"}
			}
			if err != nil {
				return Repository{}, err
			}
			return s.o.View.Repository(r.Context(), name, p)
		}),
		handle("GET", "/eviction", http.StatusOK, func(r *http.Request, _ none) (Eviction, error) {
			n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
			if err != nil || n < 0 {
				return Eviction{}, &Error{http.StatusBadRequest, "bytes: want a number"}
			}
			return s.o.View.Eviction(n), nil
		}),
		handle("GET", "/audit", http.StatusOK, func(r *http.Request, _ none) (AuditLines, error) {
			if !s.o.Caller(r).Admin {
				return AuditLines{}, &Error{http.StatusForbidden, "the audit log is for who has the admin action"}
			}
			p, err := pageOf(r)
			if err != nil {
				return AuditLines{}, err
			}
			lines, err := s.o.View.AuditTail(p.Limit)
			return AuditLines{lines}, err
		}),
	}
}

// pageOf reads ?match=, ?limit= and ?offset=.
func pageOf(r *http.Request) (Page, error) {
	q := r.URL.Query()
	p := Page{Match: q.Get("match"), Limit: defaultPage}
	for _, n := range []struct {
		name string
		most int
		to   *int
	}{{"limit", maxPage, &p.Limit}, {"offset", 1 << 30, &p.Offset}} {
		text := q.Get(n.name)
		if text == "" {
			continue
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < 0 || v > n.most {
			return p, &Error{http.StatusBadRequest, n.name + ": want 0 to " + strconv.Itoa(n.most)}
		}
		*n.to = v
	}
	return p, nil
}
