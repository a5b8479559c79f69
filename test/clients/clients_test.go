package clients

import (
	"context"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

var binaries lab.Binaries

func TestMain(m *testing.M) { os.Exit(lab.Main(m, &binaries)) }

// TestMatrix is a small part of the matrix: make accept-clients runs all of it.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	few := regexp.MustCompile(`^(no-fault-cold|peerd-killed|peerd-upgraded|peer-liar:wrong|seeder-rst@100000|upstream-503)$`)
	for _, k := range Kinds() {
		switch k.Name {
		case "containerd-1.6-cri", "containerd-2-cri", "skopeo":
		default:
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			if err := k.Missing(); err != nil {
				t.Skip(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			w, err := NewWorld(ctx, binaries, []int{3 << 20, 1 << 20, 300 << 10})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			r, err := w.NewRow(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for _, c := range Conditions() {
				if !few.MatchString(c.Name) {
					continue
				}
				cell := r.Run(ctx, c)
				t.Logf("%+v", cell)
				if cell.Bad() {
					t.Errorf("%s, %s: %s after %.1f s: %s", k.Name, c.Name, cell.Verdict, cell.Seconds, cell.Reason)
				}
			}
		})
	}
}

// TestRolling is a small rolling upgrade: make accept-upgrade runs eight clients.
func TestRolling(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	kinds := []Kind{HTTPKind()}
	for _, k := range Kinds() {
		if (k.Name == "skopeo" || k.Name == "containerd-1.6-cri") && k.Missing() == nil {
			kinds = append(kinds, k)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	f, err := NewFleet(ctx, FleetConfig{Old: binaries, New: binaries, Kinds: kinds, Layers: []int{2 << 20, 300 << 10}, Rate: 40 * lab.Mbit})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := f.Roll(ctx, HandOver)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	if r.Replaced != len(kinds)+1 {
		t.Errorf("%d daemons were replaced, not %d", r.Replaced, len(kinds)+1)
	}
	for _, c := range r.Clients {
		if c.Failed > 0 || c.Past > 0 || c.Pulls < 2 {
			t.Errorf("%s: %d of %d pulls failed, %d bytes past the mirror: %s", c.Client, c.Failed, c.Pulls, c.Past, c.Reasons)
		}
	}
}
