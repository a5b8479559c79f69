package report

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Op is how a figure is compared with a target's limit.
type Op string

// The comparisons. The zero Op promises nothing.
const (
	LessOrEqual    Op = "<="
	GreaterOrEqual Op = ">="
)

// Target is what a figure is promised to be. The zero Target promises nothing.
type Target struct {
	Op    Op      `json:"op,omitempty"`
	Limit float64 `json:"limit,omitempty"` // in the row's unit
}

// AtMost promises a figure of no more than limit.
func AtMost(limit float64) Target { return Target{LessOrEqual, limit} }

// AtLeast promises a figure of no less than limit.
func AtLeast(limit float64) Target { return Target{GreaterOrEqual, limit} }

// String is "<= 1.06", or "" for no promise.
func (t Target) String() string {
	if t.Op == "" {
		return ""
	}
	return fmt.Sprintf("%s %.4g", t.Op, t.Limit)
}

// met reports whether a figure keeps the promise. What is not a number does not.
func (t Target) met(x float64) bool {
	if t.Op == GreaterOrEqual {
		return x >= t.Limit
	}
	return x <= t.Limit
}

// Verdict on a row.
type Verdict string

// The verdicts. Info rows promise nothing.
const (
	Pass Verdict = "pass"
	Fail Verdict = "FAIL"
	Info Verdict = "info"
)

// Row is one figure over several runs.
type Row struct {
	Scenario string    `json:"scenario"`
	What     string    `json:"what"` // what was measured, without the unit
	Unit     string    `json:"unit"` // "x", "s", "CPU-s/GB", "MiB"; "" for a bare number
	Target   Target    `json:"target,omitzero"`
	Values   []float64 `json:"values"` // one for each run, in the order of the runs
	// Note is a remark of a few words, printed behind the figure: "33.1 s / 31.5 s".
	Note string `json:"note,omitempty"`
	// Doubt says why the figure is not what it should be, e.g. that the CPU was the
	// limit. It does not change the verdict; the table marks the row and prints it.
	Doubt string `json:"doubt,omitempty"`
}

// Median is the middle of the values, of two the mean; NaN without values.
func (r Row) Median() float64 { return Percentile(r.Values, 50) }

// Min is the least value; NaN without values.
func (r Row) Min() float64 { return Percentile(r.Values, 0) }

// Max is the greatest value; NaN without values.
func (r Row) Max() float64 { return Percentile(r.Values, 100) }

// Verdict judges the median. A promise without a value is broken.
func (r Row) Verdict() Verdict {
	switch {
	case r.Target.Op == "":
		return Info
	case r.Target.met(r.Median()):
		return Pass
	}
	return Fail
}

// MarshalJSON adds what follows from the values, for readers without this package.
func (r Row) MarshalJSON() ([]byte, error) {
	type plain Row
	return json.Marshal(struct {
		plain
		Median  *float64 `json:"median"` // null without values
		Min     *float64 `json:"min"`
		Max     *float64 `json:"max"`
		Verdict Verdict  `json:"verdict"`
	}{plain(r), number(r.Median()), number(r.Min()), number(r.Max()), r.Verdict()})
}

// number is nil for what JSON cannot say.
func number(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}

// Percentile is the p-th percentile (0 to 100) of values in any order, between two
// of them by linear interpolation; NaN without values.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := p / 100 * float64(len(sorted)-1)
	low := int(math.Floor(at))
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
