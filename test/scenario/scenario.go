package scenario

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// Scenario is one run.
type Scenario struct {
	Name  string        // letters and dashes, for --run
	Doc   string        // what happens, one line
	Needs []Need        // what the machine must have
	Limit time.Duration // the whole run ends by then; scaled by Size.Patience
	run   func(ctx context.Context, e *Env) error
}

// Need is something that a machine may lack. It returns nil or what is missing.
type Need func() error

// Missing is the first unmet need, or nil.
func (s Scenario) Missing() error {
	for _, n := range s.Needs {
		if err := n(); err != nil {
			return err
		}
	}
	return nil
}

// Size is how large a run is.
type Size struct {
	Name     string
	Hosts    int
	Rate     lab.Rate
	Layers   []int64 // bytes
	Times    bool    // times are promises, not information
	Patience time.Duration

	// Promises about bytes, in images. Small runs have small slack in bytes, and
	// share their machine with other tests: a request that is late there is made
	// twice.
	MaxUpstream, MaxSeeder float64
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// Small is for `make test`; Full is the acceptance table's own size.
var (
	Small = Size{
		Name: "small", Hosts: 8, Rate: 100 * lab.Mbit, Patience: 90 * time.Second,
		MaxUpstream: 1.05, MaxSeeder: 1.40,
		// Blobs below 1 MiB come from the seeder once per host: few of them, or they
		// are what is measured.
		Layers: []int64{44 * mib, 4 * mib, 3 * mib, 200 * kib, 40 * kib},
	}
	Full = Size{
		Name: "full", Hosts: 8, Rate: 100 * lab.Mbit, Patience: 5 * time.Minute, Times: true,
		MaxUpstream: 1.01, MaxSeeder: 1.15,
		Layers: []int64{200 * mib, 32 * mib, 16 * mib, 4 * mib, 2 * mib, 1 * mib, 700 * kib, 200 * kib, 124 * kib},
	}
)

// Verdict on a row.
type Verdict string

// The verdicts. Info rows promise nothing.
const (
	OK   Verdict = "ok"
	Fail Verdict = "FAIL"
	Info Verdict = "info"
)

// Row is one promise and what came of it.
type Row struct {
	Scenario string  `json:"scenario"`
	What     string  `json:"what"`
	Target   string  `json:"target"`
	Measured string  `json:"measured"`
	Verdict  Verdict `json:"verdict"`
}

// Result is a finished run.
type Result struct {
	Scenario string        `json:"scenario"`
	Rows     []Row         `json:"rows"`
	Took     time.Duration `json:"tookNanos"`
	Err      error         `json:"-"` // the run could not be carried out
	Error    string        `json:"error,omitempty"`
}

// Failed reports whether the run broke off or a row failed.
func (r Result) Failed() bool {
	if r.Err != nil {
		return true
	}
	for _, row := range r.Rows {
		if row.Verdict == Fail {
			return true
		}
	}
	return false
}

// Config is what all runs share.
type Config struct {
	Bin  lab.Binaries
	Size Size
	Dir  string // parent of the labs' directories; "" = the system's
	Keep string // where logs of failed runs are copied to; "" = nowhere
	// Profile is where CPU profiles of the seeder and of one peerd in a herd go
	// (go tool pprof); "" = nowhere.
	Profile string
	Logf    func(format string, args ...any)
}

// Env is one run's surroundings.
type Env struct {
	Config
	name string
	rows []Row
	labs []*lab.Lab
	logs []*lab.Process

	cleanup []func() // run before the labs close
}

// Run carries a scenario out.
func Run(ctx context.Context, s Scenario, c Config) Result {
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
	limit := s.Limit
	if limit == 0 {
		limit = c.Size.Patience
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	e := &Env{Config: c, name: s.Name}
	start := time.Now()
	err := s.run(ctx, e)
	if lab.Interrupted() {
		select {} // the lab ends the process once all is removed
	}
	res := Result{Scenario: s.Name, Rows: e.rows, Took: time.Since(start)}
	res.fail(err)
	if res.Failed() && c.Keep != "" {
		e.keepLogs()
	}
	for _, f := range e.cleanup {
		f()
	}
	for _, l := range e.labs {
		if err := l.Close(); err != nil && res.Err == nil {
			res.fail(fmt.Errorf("close lab: %w", err))
		}
	}
	return res
}

func (r *Result) fail(err error) {
	if err != nil {
		r.Err, r.Error = err, err.Error()
	}
}

// newLab makes a lab that ends with the run.
func (e *Env) newLab() (*lab.Lab, error) {
	l, err := lab.New(lab.Options{Rate: e.Size.Rate, Dir: e.Dir})
	if err != nil {
		return nil, err
	}
	e.labs = append(e.labs, l)
	return l, nil
}

// keepLogs copies the logs of all processes of the run to Keep.
func (e *Env) keepLogs() {
	if err := os.MkdirAll(e.Keep, 0o755); err != nil {
		e.Logf("keep logs: %v", err)
		return
	}
	for i, p := range e.logs {
		if p == nil {
			continue
		}
		path := fmt.Sprintf("%s/%s-%02d-%s.log", e.Keep, e.name, i, p.Title())
		if err := os.WriteFile(path, []byte(p.Log()), 0o644); err != nil {
			e.Logf("keep logs: %v", err)
			return
		}
	}
	e.Logf("logs of %s kept in %s", e.name, e.Keep)
}

// row reports a promise.
func (e *Env) row(what, target string, ok bool, format string, args ...any) {
	v := OK
	if !ok {
		v = Fail
	}
	e.add(what, target, v, format, args...)
}

// timing reports a promise about time: for information at small sizes.
func (e *Env) timing(what, target string, ok bool, format string, args ...any) {
	v := OK
	switch {
	case !e.Size.Times:
		v = Info
	case !ok:
		v = Fail
	}
	e.add(what, target, v, format, args...)
}

// info reports something measured that nothing is promised about.
func (e *Env) info(what, format string, args ...any) {
	e.add(what, "", Info, format, args...)
}

func (e *Env) add(what, target string, v Verdict, format string, args ...any) {
	r := Row{Scenario: e.name, What: what, Target: target, Measured: fmt.Sprintf(format, args...), Verdict: v}
	e.rows = append(e.rows, r)
	e.Logf("%-4s %s: %s: %s (target: %s)", r.Verdict, r.Scenario, r.What, r.Measured, r.Target)
}

// expect reports that something went as it should, or the error.
func (e *Env) expect(what, target string, err error) {
	if err != nil {
		e.row(what, target, false, "%v", err)
		return
	}
	e.row(what, target, true, "yes")
}
