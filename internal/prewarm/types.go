package prewarm

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Target says which hosts: exactly one of all, some zones, some hosts (of some
// zones, or of any), or peers.
type Target struct {
	All   bool     `json:"all,omitempty"`
	Zones []string `json:"zones,omitempty"`
	Hosts int      `json:"hosts,omitempty"` // so many, spread over zones
	Peers []string `json:"peers,omitempty"` // peer IDs
}

// Request asks for an order.
type Request struct {
	Images    []string `json:"images"`              // as clients name them
	Platforms []string `json:"platforms,omitempty"` // "linux/arm64", or "all"; by itself each host's own
	Target
	Rate int64     `json:"rate,omitempty"` // bytes per second and host; by itself no limit
	By   time.Time `json:"by,omitzero"`    // the deadline; by itself a day from now
}

// The states of an order. One that is done goes on until its deadline for hosts
// that come late, and one that failed for those that try again.
const (
	Running  = "running"
	Done     = "done"     // every host has every image
	Failed   = "failed"   // every host has ended, some without an image
	Expired  = "expired"  // the deadline passed before
	Canceled = "canceled" // somebody took it back
)

// Order is what hosts are told.
type Order struct {
	ID        string   `json:"id"`
	User      string   `json:"user"`               // who gave it
	Schedule  string   `json:"schedule,omitempty"` // that made it
	State     string   `json:"state"`
	Open      bool     `json:"open"` // hosts are still told
	Images    []Image  `json:"images"`
	Platforms []string `json:"platforms,omitempty"`
	Target    Target   `json:"target"`
	Rate      int64    `json:"rate,omitempty"`

	Created time.Time `json:"created"`
	By      time.Time `json:"by"`
	Ended   time.Time `json:"ended,omitzero"` // when State came to be what it is, but for running

	Hosts []Host `json:"hosts"`
	Counts
	Error string `json:"error,omitempty"`
}

// Counts sum an order's hosts up.
type Counts struct {
	HostsDone   int   `json:"hostsDone"`
	HostsFailed int   `json:"hostsFailed"` // refused, too
	HostsTotal  int   `json:"hostsTotal"`
	Bytes       int64 `json:"bytes"`      // of all hosts, that are there
	BytesTotal  int64 `json:"bytesTotal"` // known so far
}

// Image is one image of an order.
type Image struct {
	Image      string        `json:"image"` // as it was asked for
	Repository string        `json:"repository,omitempty"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"` // what it meant when the order was given
	Resolved   time.Time     `json:"resolved,omitzero"`
	Error      string        `json:"error,omitempty"`
}

// The states of a host, beside Running, Done and Failed.
const (
	Waiting = "waiting" // it is away, or not told yet
	Queued  = "queued"  // it works on another order
	Refused = "refused"
)

// Host is how far one is.
type Host struct {
	Peer       string    `json:"peer"`
	Zone       string    `json:"zone,omitempty"`
	Address    string    `json:"address,omitempty"`
	State      string    `json:"state"`
	Images     int       `json:"images"`
	ImagesDone int       `json:"imagesDone"`
	Bytes      int64     `json:"bytes"`
	BytesTotal int64     `json:"bytesTotal"`
	Error      string    `json:"error,omitempty"`
	Seen       time.Time `json:"seen,omitzero"` // when it said so
}

// Schedule makes orders at times.
type Schedule struct {
	Name      string   `json:"name"`
	Cron      string   `json:"cron"` // five fields, in the seeder's time zone, or @daily and the like
	Images    []string `json:"images"`
	Platforms []string `json:"platforms,omitempty"`
	Target
	Rate   int64  `json:"rate,omitempty"`
	Within string `json:"within,omitempty"` // the deadline after each start, like 6h; by itself 24h

	User      string    `json:"user"`          // who made it
	Last      time.Time `json:"last,omitzero"` // run
	LastOrder string    `json:"lastOrder,omitempty"`
	Next      time.Time `json:"next,omitzero"`
}

func (o *Order) count() {
	o.Counts = Counts{HostsTotal: len(o.Hosts)}
	for _, h := range o.Hosts {
		o.Bytes += h.Bytes
		o.BytesTotal += h.BytesTotal
		switch h.State {
		case Done:
			o.HostsDone++
		case Failed, Refused:
			o.HostsFailed++
		}
	}
}
