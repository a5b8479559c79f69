// Package report is what the benchmarks of Samara hand back: [Row]s, each a figure
// over several runs with its target and verdict, collected in a [Report] that
// prints as a table and is written as JSON together with the facts of the machine.
//
//	rep := report.New("bench-swarm")
//	rep.Add(os.Stdout, report.Row{Scenario: "burst-8", What: "time / lower bound",
//		Unit: "x", Target: report.AtMost(1.06), Values: []float64{1.04, 1.05, 1.04}})
//	rep.WriteTable(os.Stdout)
//	err := rep.WriteJSON("result.json")
//
// A figure is the median of its runs; the least and the greatest stand beside it.
// Figures are written without rounding to JSON and with three digits to a table.
//
// It measures nothing and knows nothing of labs, daemons or clients.
//
// Callers: the programs in test/bench.
package report
