package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/disk"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/hostconf"
)

// Timeout is within which Run ends, whatever hangs.
const Timeout = 20 * time.Second

// Deadlines of what is done one after the other; with the margin they are Timeout.
const (
	lookTimeout    = 4 * time.Second // mirror, status, seeders
	canaryTimeout  = 10 * time.Second
	examineTimeout = 8 * time.Second
	removeTimeout  = 2 * time.Second
)

// Options say what this node is meant to be. All but Mirror and Admin may be
// missing; what they would be needed for is skipped, and said.
type Options struct {
	Mirror string // its URL
	Admin  string // URL of peerd's admin server

	Host     *hostconf.Host    // the runtimes' files
	Settings hostconf.Settings // what setup has applied, or would; without Registries, those that peerd stands for
	Root     string            // "/", or where the host's files are
	Sockets  map[string]string // of runtimes ("containerd", "docker", "crio"), where not in the usual place
	NoCanary bool              // do not pull

	Ports    []Port // that peerd listens on
	Data     string // its directory
	Seeders  []string
	SeederCA string
	SwarmKey string // file; "" for an open swarm
}

// Port is an address that peerd is told to listen on.
type Port struct {
	Flag string // that says so
	Addr string // HOST:PORT
}

// doctor is one run.
type doctor struct {
	Options
	admin *adminClient

	st      *status.Status
	stErr   error
	mirror  Check
	seeders []*seederView
	exam    *status.Examination
	examErr error

	mu     sync.Mutex
	report Report
}

// Run looks at everything, and ends within Timeout.
func Run(ctx context.Context, o Options) *Report {
	ctx, cancel := context.WithTimeout(ctx, Timeout-time.Second)
	defer cancel()
	d := &doctor{Options: o, admin: newAdminClient(o.Admin), report: Report{Mirror: o.Mirror, Checks: []Check{}}}
	d.look(ctx)
	if len(d.Settings.Registries) == 0 {
		d.Settings.Registries = d.upstreams()
	}
	d.add(d.mirror, d.peerd())
	var wg sync.WaitGroup
	wg.Go(func() { d.configurationAndCanaries(ctx) })
	wg.Go(func() { d.examine(ctx) })
	wg.Wait()
	d.add(d.swarm()...)
	d.report.judge()
	return &d.report
}

func (d *doctor) add(checks ...Check) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Checks = append(d.report.Checks, checks...)
}

// look asks whom everything else depends on: the mirror, peerd, the seeders.
func (d *doctor) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { d.mirror = d.lookAtMirror(ctx) })
	wg.Go(func() {
		var st status.Status
		if d.stErr = d.admin.call(ctx, "GET", "/v1/status", &st); d.stErr == nil && st.Daemon != "peerd" {
			d.stErr = fmt.Errorf("it is %q", st.Daemon)
		}
		if d.stErr == nil {
			d.st = &st
		}
	})
	if len(d.Seeders) > 0 {
		wg.Go(func() { d.seeders = meetSeeders(ctx, d.Seeders, d.SeederCA) })
	}
	wg.Wait()
	if d.st == nil || len(d.Seeders) > 0 {
		return
	}
	for _, s := range d.st.Seeders { // the doctor was not told, but peerd was
		d.Seeders = append(d.Seeders, s.URL)
	}
	ctx, cancel2 := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel2()
	d.seeders = meetSeeders(ctx, d.Seeders, d.SeederCA)
}

// upstreams are the registries that peerd stands for.
func (d *doctor) upstreams() []string {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if d.st != nil {
		for _, u := range d.st.Upstreams {
			add(u.Name)
		}
	}
	for _, s := range d.seeders {
		if s.in != nil {
			for _, u := range s.in.Upstreams {
				add(u.Name)
			}
		}
	}
	return names
}

// peerd tells whether it answers on its admin server.
func (d *doctor) peerd() Check {
	c := Check{Check: checkPeerd, Subject: d.Admin}
	switch {
	case d.st != nil:
		c.Result = OK
		c.Text = fmt.Sprintf("%s runs for %s, %s", d.st.Version, time.Since(d.st.StartedAt).Round(time.Second), lastRequest(&d.st.Clients))
	case d.mirror.Result == Fault:
		c.Result, c.Text = Skipped, "does not answer, as its mirror: "+d.stErr.Error()
	default:
		c.Result, c.Code, c.Text = Fault, codePeerdHidden, d.stErr.Error()
		c.Remedy = "give --admin-listen as peerd has it; what only peerd can tell was skipped"
	}
	return c
}

func lastRequest(c *status.Clients) string {
	if c.LastRequest.IsZero() {
		return "no client has asked yet"
	}
	text := fmt.Sprintf("last asked %s ago", time.Since(c.LastRequest).Round(time.Second))
	if len(c.Agents) > 0 {
		text += " (" + c.Agents[0].Name + ")"
	}
	return text
}

// examine has peerd look for itself; where it does not run, the disk is looked at
// from here.
func (d *doctor) examine(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	if d.st == nil {
		d.examErr = errors.New("peerd does not answer")
		if d.Data != "" {
			prober := &disk.Prober{Dir: d.Data}
			d.exam = &status.Examination{Disk: prober.Probe(ctx)}
		}
		return
	}
	var x status.Examination
	if d.examErr = d.admin.call(ctx, "POST", daemon.ExaminePath, &x); d.examErr == nil {
		d.exam = &x
	}
}
