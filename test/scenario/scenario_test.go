package scenario

import (
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

func TestNamesAreUniqueAndTypable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range All() {
		if seen[s.Name] {
			t.Errorf("two scenarios are called %s", s.Name)
		}
		seen[s.Name] = true
		if !regexp.MustCompile(`^[a-z-]+$`).MatchString(s.Name) || s.Doc == "" || s.run == nil {
			t.Errorf("scenario %+v lacks a name, a line of text or a run", s)
		}
	}
}

func TestLowerBound(t *testing.T) {
	// 256 MiB over 100 Mbit/s take 21.47 s; 8 hosts need 3 hops of 1024 pieces more.
	got := lowerBound(256<<20, 100*lab.Mbit, 8)
	if got < 21530*time.Millisecond || got > 21545*time.Millisecond {
		t.Errorf("lowerBound = %s", got)
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name string
		size Size
		add  func(*Env)
		want bool // failed
	}{
		{"kept", Small, func(e *Env) { e.row("w", "t", true, "m") }, false},
		{"broken", Small, func(e *Env) { e.row("w", "t", false, "m") }, true},
		{"error", Small, func(e *Env) { e.expect("w", "t", errors.New("x")) }, true},
		{"slow on a small run", Small, func(e *Env) { e.timing("w", "t", false, "m") }, false},
		{"slow on a full run", Full, func(e *Env) { e.timing("w", "t", false, "m") }, true},
		{"for information", Full, func(e *Env) { e.info("w", "m") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Env{Config: Config{Size: c.size, Logf: t.Logf}}
			c.add(e)
			if got := (Result{Rows: e.rows}).Failed(); got != c.want {
				t.Errorf("failed = %v", got)
			}
		})
	}
}

func TestAsksByPeer(t *testing.T) {
	n := asksByPeer("liar A\nasked B sha256:1 [1 2]\nnot met C\nasked B sha256:2 whole\nasked C sha256:1 [3]\n")
	if n["B"] != 2 || n["C"] != 1 || len(n) != 2 {
		t.Errorf("%v", n)
	}
}
