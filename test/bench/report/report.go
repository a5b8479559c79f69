package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/renameio/v2"
)

// Report is the outcome of one run of a benchmark program.
type Report struct {
	Tool    string         `json:"tool"`
	Command []string       `json:"command"` // as typed
	Started time.Time      `json:"started"`
	Machine Machine        `json:"machine"`
	Rows    []Row          `json:"rows"`
	Details map[string]any `json:"details,omitempty"` // whatever else the program has to tell, by name
}

// New starts a report and notes the facts of the machine.
func New(tool string) *Report {
	return &Report{Tool: tool, Command: os.Args, Started: time.Now().UTC(), Machine: ThisMachine(), Rows: []Row{}}
}

// Add appends rows and prints each to w, so that an interrupted run has said what
// it knew. A nil w prints nothing. Values that are no finite number are dropped:
// they are runs without a figure.
func (r *Report) Add(w io.Writer, rows ...Row) {
	for _, row := range rows {
		row.Values = slices.DeleteFunc(slices.Clone(row.Values), func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
		r.Rows = append(r.Rows, row)
		if w != nil {
			row.write(w, columns([]Row{row}))
		}
	}
}

// Detail keeps something for the JSON under a name; the last one stays.
func (r *Report) Detail(name string, v any) {
	if r.Details == nil {
		r.Details = make(map[string]any)
	}
	r.Details[name] = v
}

// Failed is how many rows broke their promise.
func (r *Report) Failed() int {
	n := 0
	for _, row := range r.Rows {
		if row.Verdict() == Fail {
			n++
		}
	}
	return n
}

// WriteTable prints all rows, the machine above them.
func (r *Report) WriteTable(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	c := columns(r.Rows)
	head := fmt.Sprintf("%-4s  %-*s  %-*s  %10s  %-8s  %-9s  %s", "", c.scenario, "scenario", c.what, "what", "median", "unit", "target", "min .. max; remarks")
	fmt.Fprintf(w, "%s\n%s\n", head, strings.Repeat("-", len(head)))
	for i, row := range r.Rows {
		if i > 0 && r.Rows[i-1].Scenario != row.Scenario {
			fmt.Fprintln(w)
		}
		row.write(w, c)
	}
}

// WriteJSON writes the report to a file, whole or not at all.
func (r *Report) WriteJSON(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// Finish prints the table to out and writes the JSON file, where path names one;
// err is why measuring stopped, and goes to errs. It returns the program's exit
// status: 2 when it could not measure, 1 when a target was missed, else 0.
func (r *Report) Finish(out, errs io.Writer, path string, err error) int {
	if len(r.Rows) > 0 {
		fmt.Fprintln(out)
		r.WriteTable(out)
	}
	if err == nil && path != "" {
		err = r.WriteJSON(path)
	}
	switch {
	case err != nil:
		fmt.Fprintf(errs, "%s: %v\n", r.Tool, err)
		return 2
	case r.Failed() > 0:
		return 1
	}
	return 0
}

// ReadJSON reads what WriteJSON wrote; Details come as maps and slices.
func ReadJSON(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	return &r, nil
}

// widths of the columns that vary.
type widths struct{ scenario, what int }

func columns(rows []Row) widths {
	c := widths{16, 44}
	for _, r := range rows {
		c.scenario = max(c.scenario, utf8.RuneCountInString(r.Scenario))
		c.what = max(c.what, utf8.RuneCountInString(r.What))
	}
	return c
}

func (r Row) write(w io.Writer, c widths) {
	var remarks []string
	if len(r.Values) > 1 {
		remarks = append(remarks, fmt.Sprintf("%s .. %s", figure(r.Min()), figure(r.Max())))
	}
	if r.Note != "" {
		remarks = append(remarks, r.Note)
	}
	if r.Doubt != "" {
		remarks = append(remarks, "! "+r.Doubt)
	}
	line := fmt.Sprintf("%-4s  %-*s  %-*s  %10s  %-8s  %-9s  %s", r.Verdict(), c.scenario, r.Scenario, c.what, r.What,
		figure(r.Median()), r.Unit, r.Target, strings.Join(remarks, "; "))
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}

// figure prints a number with at least three digits that mean something.
func figure(x float64) string {
	switch abs := max(x, -x); {
	case x != x:
		return "-"
	case abs >= 100:
		return fmt.Sprintf("%.0f", x)
	case abs >= 10:
		return fmt.Sprintf("%.1f", x)
	case abs >= 0.1 || x == 0:
		return fmt.Sprintf("%.3f", x)
	}
	return fmt.Sprintf("%.3g", x)
}
