package sim

import "testing"

func TestTry(t *testing.T) {
	for _, n := range []int{1, 2, 8, 32} {
		r := Run(Config{Hosts: n, Seed: 1})
		t.Logf("%d: %+v", n, r)
	}
}
