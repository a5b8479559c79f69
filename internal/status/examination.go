package status

import "github.com/samara-p2p/samara/internal/disk"

// Examination is what a peerd finds when it is told to look for itself
// (POST /v1/examine): with its own network, credentials and disk.
type Examination struct {
	Disk      disk.Finding `json:"disk"`
	Reached   []Reached    `json:"reached"`
	Seeders   []Probe      `json:"seeders"`
	Upstreams []Probe      `json:"upstreams"`
}

// Reached is what a neighbour says that was asked to connect to this peerd.
type Reached struct {
	Peer   string  `json:"peer"`
	Seeder bool    `json:"seeder,omitempty"`
	Ports  []Reach `json:"ports"`
	Error  string  `json:"error,omitempty"` // why it did not say
}

// Reach is an address of this peerd as the neighbour finds it.
type Reach struct {
	Addr   string `json:"addr"`
	Pieces bool   `json:"pieces,omitempty"` // --pieces-listen; else --p2p-listen
	Error  string `json:"error,omitempty"`  // "": the connection came about
}

// Probe is a request for /v2/.
type Probe struct {
	Name   string `json:"name,omitempty"` // of an upstream
	URL    string `json:"url"`
	Status int    `json:"status,omitempty"` // of HTTP; 0: no answer
	// Proved says that it was asked with a proof of the swarm key, and not as
	// anybody, whom a registry may send to a login.
	Proved bool   `json:"proved,omitempty"`
	Error  string `json:"error,omitempty"`
}
