package main

import (
	"fmt"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// outcome is all that one run of one scenario on one system has shown. It goes
// into the JSON as it is: times are seconds, sizes bytes, shares 0 to 1.
type outcome struct {
	Scenario string   `json:"scenario"`
	System   string   `json:"system"`
	Run      int      `json:"run"`
	Image    int64    `json:"image"` // what a client fetches
	Rate     lab.Rate `json:"rate"`  // of a host's link, bit/s
	Share    float64  `json:"share"` // of it that is payload

	Makespan   float64 `json:"makespan"`   // from the first host's start to the last one's end
	BoundRaw   float64 `json:"boundRaw"`   // for links that carry their rate
	BoundShare float64 `json:"boundShare"` // for links that carry their share of it

	Hosts    []hostOutcome `json:"hosts"`
	Upstream bytesMoved    `json:"upstream"`
	Seeder   bytesMoved    `json:"seeder"`           // of the proxy, on other systems; of the one holder without a seeder
	Crossed  bytesMoved    `json:"crossed,omitzero"` // sent out of and received into the far zone

	CPU    cpuUse    `json:"cpu"`
	Memory memoryUse `json:"memory"`
	Curve  []sample  `json:"curve"`
	// ForwardedWhileFetching is what a cold seeder had sent to hosts, in images, when
	// it had itself received the last of the image.
	ForwardedWhileFetching float64 `json:"forwardedWhileFetching,omitempty"`
	Error                  string  `json:"error,omitempty"`
}

// hostOutcome is one host's pull.
type hostOutcome struct {
	Name       string     `json:"name"`
	Rate       lab.Rate   `json:"rate"`
	Started    float64    `json:"started"`    // after the first host
	Took       float64    `json:"took"`       // from its own start
	FirstBytes []float64  `json:"firstBytes"` // the wait for the first byte of each blob
	Moved      bytesMoved `json:"moved"`
	// FromUpstream is what the client took from the upstream past its mirror.
	FromUpstream int64  `json:"fromUpstream,omitempty"`
	Killed       bool   `json:"killed,omitempty"`
	Tries        int    `json:"tries"` // pulls until one succeeded
	Error        string `json:"error,omitempty"`
}

// bytesMoved is TCP payload over one link.
type bytesMoved struct {
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
}

func payload(c lab.Counter) bytesMoved { return bytesMoved{c.SentPayload(), c.ReceivedPayload()} }

// cpuUse is processor time in seconds over the run.
type cpuUse struct {
	Peerds  float64 `json:"peerds"`
	Seeder  float64 `json:"seeder"`
	Clients float64 `json:"clients"` // this program: all pulls, and the measuring
	Machine float64 `json:"machine"` // all that was not idle, in all processors
	SoftIRQ float64 `json:"softirq"` // of that: the kernel's network, as it says itself
	Stolen  float64 `json:"stolen"`  // by the hypervisor
	Busy    float64 `json:"busy"`    // Machine and Stolen / what there was
}

// memoryUse is the largest resident set of a process in bytes.
type memoryUse struct {
	Peerd  int64 `json:"peerd"` // of the largest peerd
	Seeder int64 `json:"seeder"`
}

// sample is one moment of a run. Shares are of what a link carries as payload.
type sample struct {
	At       float64 `json:"at"`       // seconds after the first host's start
	Receive  float64 `json:"receive"`  // mean of all hosts
	Send     float64 `json:"send"`     // mean of all hosts
	Seeder   float64 `json:"seeder"`   // sending
	Upstream float64 `json:"upstream"` // sending
	Busy     float64 `json:"busy"`     // processors
	Pulling  int     `json:"pulling"`  // hosts that have started and are not done
}

// images is a number of bytes in images.
func (o *outcome) images(n int64) float64 { return float64(n) / float64(o.Image) }

// took is every host's own time.
func (o *outcome) took(which func(hostOutcome) bool) []float64 {
	var t []float64
	for _, h := range o.Hosts {
		if which == nil || which(h) {
			t = append(t, h.Took)
		}
	}
	return t
}

// firstBytes is the wait for the first byte of every blob on every host.
func (o *outcome) firstBytes() []float64 {
	var t []float64
	for _, h := range o.Hosts {
		t = append(t, h.FirstBytes...)
	}
	return t
}

func seconds(d time.Duration) float64 { return d.Seconds() }

// String is a line on how the run went.
func (o *outcome) String() string {
	return fmt.Sprintf("%.1f s, %.3f of the bound; seeder %.3f, upstream %.4f images; processors %.0f%% busy",
		o.Makespan, o.Makespan/o.BoundShare, o.images(o.Seeder.Sent), o.images(o.Upstream.Sent), 100*o.CPU.Busy)
}
