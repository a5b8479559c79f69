package doctor

import "slices"

// Result is how a check came out.
type Result string

// The results.
const (
	OK      Result = "ok"
	Fault   Result = "fault"
	Warning Result = "warning" // a fault that keeps no pull from its way now
	Skipped Result = "skipped" // it could not be looked at; the text says why
)

// Check is what was looked at, and what was found.
type Check struct {
	Check   string `json:"check"`             // one of the names below
	Subject string `json:"subject,omitempty"` // a runtime, a URL, a port
	Result  Result `json:"result"`
	Code    string `json:"code,omitempty"` // of faults and warnings: docs/doctor.md
	Text    string `json:"text"`
	Remedy  string `json:"remedy,omitempty"` // of faults and warnings: what to do
}

// Names of checks, in the order in which they are shown.
const (
	checkMirror   = "mirror"
	checkPeerd    = "peerd"
	checkConfig   = "configuration"
	checkCanary   = "canary"
	checkBypass   = "bypass"
	checkSeeder   = "seeder"
	checkClock    = "clock"
	checkPeers    = "peers"
	checkPorts    = "ports"
	checkUpstream = "upstream"
	checkDisk     = "disk"
	checkContent  = "content"
)

var order = []string{checkMirror, checkPeerd, checkConfig, checkCanary, checkBypass, checkSeeder, checkClock, checkPeers, checkPorts, checkUpstream, checkDisk, checkContent}

// onTheWay are the checks whose faults keep pulls from the mirror.
var onTheWay = []string{checkMirror, checkConfig, checkCanary}

// Verdict is what the checks come to.
type Verdict string

// The verdicts, the worst first.
const (
	Bypassed Verdict = "bypassed" // pulls do not go through the mirror, or not all
	Impaired Verdict = "impaired" // they do, or may; what is behind the mirror has a fault
	Unproven Verdict = "unproven" // no fault was found, and no runtime could be tried
	Proven   Verdict = "proven"   // they do, and no fault was found
)

// Report is all of it.
type Report struct {
	Verdict Verdict `json:"verdict"`
	Mirror  string  `json:"mirror"`
	Checks  []Check `json:"checks"`
}

// Faults are the checks that found a fault.
func (r *Report) Faults() []Check {
	return slices.DeleteFunc(slices.Clone(r.Checks), func(c Check) bool { return c.Result != Fault })
}

// judge sorts the checks and finds the verdict.
func (r *Report) judge() {
	slices.SortStableFunc(r.Checks, func(a, b Check) int {
		return slices.Index(order, a.Check) - slices.Index(order, b.Check)
	})
	r.Verdict = Unproven
	for _, c := range r.Checks {
		switch {
		case c.Result == Fault && slices.Contains(onTheWay, c.Check):
			r.Verdict = Bypassed
			return
		case c.Result == Fault:
			r.Verdict = Impaired
		case c.Check == checkCanary && c.Result == OK && r.Verdict == Unproven:
			r.Verdict = Proven
		}
	}
}
