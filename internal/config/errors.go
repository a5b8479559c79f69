package config

import "strings"

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Where string // "--listen", "SEEDER_LISTEN", "seeder.yaml:12: listen"
	What  string // what is wrong there
	Fix   string // what to do; may be empty
}

func (p Problem) String() string {
	s := p.Where + ": " + p.What
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// Error is everything that is wrong with a configuration. The daemons exit
// with status 2 on it.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	if len(lines) == 1 {
		return "configuration: " + lines[0]
	}
	return "configuration has " + plural(len(lines)) + ":\n  " + strings.Join(lines, "\n  ")
}

func plural(n int) string { return itoa(n) + " problems" }

// asErr is nil when there are no problems.
func asErr(ps []Problem) error {
	if len(ps) == 0 {
		return nil
	}
	return &Error{Problems: ps}
}
