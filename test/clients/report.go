package clients

import (
	"fmt"
	"io"
	"slices"
)

// Print writes a table: a line for each cell that is not as it should be, and
// for each condition what became of each client.
func Print(w io.Writer, cells []Cell) {
	var kinds, conditions []string
	at := map[[2]string]Cell{}
	for _, c := range cells {
		if !slices.Contains(kinds, c.Client) {
			kinds = append(kinds, c.Client)
		}
		if !slices.Contains(conditions, c.Condition) {
			conditions = append(conditions, c.Condition)
		}
		at[[2]string{c.Client, c.Condition}] = c
	}
	fmt.Fprintf(w, "%-30s", "")
	for i := range kinds {
		fmt.Fprintf(w, " %10s", fmt.Sprintf("(%d)", i+1))
	}
	fmt.Fprintln(w)
	for _, cond := range conditions {
		fmt.Fprintf(w, "%-30s", cond)
		for _, k := range kinds {
			c, ok := at[[2]string{k, cond}]
			text := "-"
			if ok {
				text = c.short()
			}
			fmt.Fprintf(w, " %10s", text)
		}
		fmt.Fprintln(w)
	}
	for i, k := range kinds {
		fmt.Fprintf(w, "(%d) %s\n", i+1, k)
	}
	fmt.Fprintln(w, "M: all layers from the mirror; U: all straight from the upstream; +: both; the number is seconds; ?: the fault did not show")
	for _, c := range cells {
		if c.Bad() {
			fmt.Fprintf(w, "%-5s %s, %s: %.1f s, %s\n", c.Verdict, c.Client, c.Condition, c.Seconds, c.Reason)
		}
	}
}

// Bad reports a cell that is not as it should be.
func (c Cell) Bad() bool { return c.Verdict != OK && c.Verdict != Same && c.Verdict != Info }

func (c Cell) short() string {
	s := string(c.Verdict)
	if c.Verdict == OK {
		switch {
		case c.Straight == 0:
			s = "M"
		case c.Mirror < c.Image/100:
			s = "U"
		default:
			s = "M+U"
		}
	}
	if c.Struck == 0 && c.Condition != "no-fault" && c.Condition != "no-fault-cold" {
		s += "?"
	}
	return fmt.Sprintf("%s %.0f", s, c.Seconds)
}
