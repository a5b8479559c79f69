package report

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name   string
		target Target
		values []float64
		want   Verdict
	}{
		{"no promise", Target{}, []float64{9}, Info},
		{"kept by the median", AtMost(1.1), []float64{1.0, 1.3, 1.1}, Pass},
		{"broken by the median", AtMost(1.1), []float64{1.0, 1.2, 1.3}, Fail},
		{"limits are kept", AtMost(0), []float64{0}, Pass},
		{"at least, kept", AtLeast(2), []float64{2, 3}, Pass},
		{"at least, broken", AtLeast(2), []float64{1.9}, Fail},
		{"nothing measured", AtMost(1), nil, Fail},
		{"not a number", AtMost(1), []float64{math.NaN()}, Fail},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (Row{Target: c.target, Values: c.values}).Verdict(); got != c.want {
				t.Errorf("verdict %s, want %s", got, c.want)
			}
		})
	}
}

func TestPercentile(t *testing.T) {
	values := []float64{40, 10, 30, 20}
	for p, want := range map[float64]float64{0: 10, 50: 25, 100: 40, 95: 38.5} {
		if got := Percentile(values, p); math.Abs(got-want) > 1e-9 {
			t.Errorf("p%.0f = %v, want %v", p, got, want)
		}
	}
	if values[0] != 40 {
		t.Error("the caller's values were sorted")
	}
	if got := Percentile([]float64{7}, 99); got != 7 {
		t.Errorf("p99 of one value = %v", got)
	}
}

func TestTable(t *testing.T) {
	r := New("test")
	var live strings.Builder
	r.Add(&live,
		Row{Scenario: "burst-8", What: "time / lower bound", Unit: "x", Target: AtMost(1.06), Values: []float64{1.04, 1.05, 1.2}, Note: "22.6 s"},
		Row{Scenario: "burst-8", What: "seeder egress / image", Unit: "x", Target: AtMost(1.05), Values: []float64{1.3}, Doubt: "the CPU was the limit"},
		Row{Scenario: "burst-8", What: "broken off", Unit: "s"},
	)
	var table strings.Builder
	r.WriteTable(&table)
	for _, want := range []string{
		"pass  burst-8", "1.050", "<= 1.06", "1.040 .. 1.200; 22.6 s",
		"FAIL  burst-8", "! the CPU was the limit",
		"info  burst-8",
	} {
		if !strings.Contains(live.String(), want) || !strings.Contains(table.String(), want) {
			t.Errorf("%q is missing in\n%s\n%s", want, live.String(), table.String())
		}
	}
	if r.Failed() != 1 {
		t.Errorf("%d rows failed", r.Failed())
	}
}

func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	r := New("test")
	r.Add(nil, Row{Scenario: "s", What: "w", Unit: "x", Target: AtMost(2), Values: []float64{1, 3, 2}}, Row{Scenario: "s", What: "nothing came of it", Values: []float64{math.NaN(), math.Inf(1)}})
	r.Detail("hosts", 8)
	if err := r.WriteJSON(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadJSON(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Tool != "test" || len(got.Rows) != 2 || got.Rows[0].Median() != 2 || got.Rows[0].Target != AtMost(2) || got.Rows[1].Verdict() != Info {
		t.Errorf("%+v", got)
	}
	if got.Machine != r.Machine || got.Machine.CPUs == 0 || got.Details["hosts"] != 8.0 {
		t.Errorf("machine %+v, details %v", got.Machine, got.Details)
	}
}

func TestFigure(t *testing.T) {
	for want, x := range map[string]float64{"1.003": 1.0031, "33.0": 33.02, "1234": 1234.4, "0.00123": 0.001234, "0.000": 0, "-": math.NaN(), "-2.500": -2.5} {
		if got := figure(x); got != want {
			t.Errorf("figure(%v) = %s, want %s", x, got, want)
		}
	}
}

func TestFinish(t *testing.T) {
	for _, c := range []struct {
		name   string
		values float64
		path   string
		err    error
		want   int
	}{
		{"met", 1, "", nil, 0},
		{"missed", 3, "", nil, 1},
		{"not measured", 1, "", errors.New("no root"), 2},
		{"not written", 1, filepath.Join(t.TempDir(), "none", "r.json"), nil, 2},
	} {
		r := New("bench-test")
		r.Add(nil, Row{Scenario: "s", What: "w", Target: AtMost(2), Values: []float64{c.values}})
		var out, errs strings.Builder
		if got := r.Finish(&out, &errs, c.path, c.err); got != c.want || (errs.Len() > 0) != (c.want == 2) || !strings.Contains(out.String(), "<= 2") {
			t.Errorf("%s: %d, %q, %q", c.name, got, out.String(), errs.String())
		}
	}
}
