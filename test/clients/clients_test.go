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
