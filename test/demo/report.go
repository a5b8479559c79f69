package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// result is what the pull cost. Bytes; Seconds; ratios to the image's size.
type result struct {
	Hosts        int      `json:"hosts"`
	Client       string   `json:"client"`
	Loopback     bool     `json:"loopback"`
	RateMbit     int      `json:"rateMbit,omitempty"`
	ImageBytes   int64    `json:"imageBytes"`
	Seconds      float64  `json:"seconds"`
	BoundSeconds float64  `json:"boundSeconds,omitempty"` // no way to be faster over these links
	FromUpstream int64    `json:"bytesOutOfUpstream"`
	FromSeeder   int64    `json:"bytesOutOfSeeder"`
	BetweenPeers int64    `json:"bytesBetweenPeers"`
	PeerShare    float64  `json:"peerShare"` // of what the hosts received, carried by peers; 0 to 1
	CountedBy    string   `json:"countedBy"`
	Problems     []string `json:"problems"`
}

func newResult(s *stage) *result {
	r := &result{Hosts: len(s.peers), Client: s.clientName, Loopback: s.lab.Loopback(), ImageBytes: s.image.Size(), Problems: []string{}}
	if !r.Loopback {
		r.RateMbit = s.o.mbit
		// DESIGN section 5: the seeder's link must carry each byte once, and the last
		// of about 1024 pieces takes log2(hosts) hops.
		r.BoundSeconds = float64(r.ImageBytes) * 8 / (float64(s.o.mbit) * 1e6) * (1 + math.Log2(float64(r.Hosts))/1024)
	}
	return r
}

func (r *result) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *result) took(d time.Duration) { r.Seconds = d.Seconds() }

// count fills in who sent what: by the links where there are any, else by what
// the daemons and the upstream say.
func (r *result) count(ctx context.Context, s *stage, links lab.Traffic) {
	var fromPeers, fromSeeder, fromUpstream int64
	for i, st := range s.statuses(ctx) {
		if st == nil {
			r.problem("%s does not answer", s.peers[i].Title())
			continue
		}
		fromPeers += st.Bytes.FromPeers
		fromSeeder += st.Bytes.FromSeeder
		fromUpstream += st.Bytes.FromUpstream
		for _, l := range st.Liars {
			r.problem("%s calls peer %s a liar: %s", s.peers[i].Title(), l.ID, l.Reason)
		}
	}
	if total := fromPeers + fromSeeder + fromUpstream; total > 0 {
		r.PeerShare = float64(fromPeers) / float64(total)
	}
	if r.Loopback {
		r.CountedBy = "daemons and upstream"
		r.FromSeeder, r.BetweenPeers = fromSeeder, fromPeers
		r.FromUpstream = s.upstreamSent(r)
	} else {
		r.CountedBy = "links, without headers"
		r.FromUpstream, r.FromSeeder = links["upstream"].SentPayload(), links["seeder"].SentPayload()
		for _, p := range s.peers {
			r.BetweenPeers += links[p.Host.Name].SentPayload()
		}
	}
	if r.images(r.FromUpstream) > 1.10 {
		r.problem("%.2f images left the upstream; one is enough", r.images(r.FromUpstream))
	}
	if r.Hosts > 1 && r.PeerShare < 0.25 {
		r.problem("peers carried only %.0f%% of the bytes", 100*r.PeerShare)
	}
}

func (s *stage) upstreamSent(r *result) int64 {
	if s.builtin != nil {
		return s.builtin.Sent()
	}
	served, err := s.upstream.Served()
	if err != nil {
		r.problem("%v", err)
	}
	return served.BlobBytes
}

func (r *result) images(n int64) float64 { return float64(n) / float64(r.ImageBytes) }

func (r *result) print(w io.Writer) {
	row := func(what, format string, args ...any) {
		fmt.Fprintf(w, "  %-28s %s\n", what, fmt.Sprintf(format, args...))
	}
	bytes := func(what string, n int64) { row(what, "%10s   %5.2f images", size(n), r.images(n)) }
	fmt.Fprintln(w)
	row("image", "%10s   pulled by %d hosts with %s", size(r.ImageBytes), r.Hosts, r.Client)
	if r.BoundSeconds > 0 {
		row("time", "%8.1f s   %5.2f x the lower bound of %.1f s", r.Seconds, r.Seconds/r.BoundSeconds, r.BoundSeconds)
	} else {
		row("time", "%8.1f s   (links are not shaped: no lower bound)", r.Seconds)
	}
	bytes("bytes that left the upstream", r.FromUpstream)
	bytes("bytes that left the seeder", r.FromSeeder)
	bytes("bytes between peers", r.BetweenPeers)
	row("carried by peers", "%8.1f %%   of what the hosts received", 100*r.PeerShare)
	without := fmt.Sprintf("%5.2f images out of the upstream", float64(r.Hosts))
	if r.BoundSeconds > 0 {
		without += fmt.Sprintf(", and at least %.0f s", float64(r.ImageBytes)*8*float64(r.Hosts)/(float64(r.RateMbit)*1e6))
	}
	row("without Samara", "%10s   %s", size(r.ImageBytes*int64(r.Hosts)), without)
	row("counted by", "%s", r.CountedBy)
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  PROBLEM: %s\n", p)
	}
}

func (r *result) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
