package integration

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/samara-p2p/samara/test/lab"
	"github.com/samara-p2p/samara/test/scenario"
)

var binaries lab.Binaries

func TestMain(m *testing.M) { os.Exit(lab.Main(m, &binaries)) }

// Each scenario is a subtest: go test ./test/integration -run TestScenarios/herd-http -v
func TestScenarios(t *testing.T) {
	if testing.Short() {
		t.Skip("scenarios take minutes")
	}
	for _, s := range scenario.All() {
		t.Run(s.Name, func(t *testing.T) {
			if err := s.Missing(); err != nil {
				t.Skipf("%s: %v", s.Doc, err)
			}
			res := scenario.Run(context.Background(), s, scenario.Config{
				Bin: binaries, Size: scenario.Small, Keep: keepDir(), Logf: t.Logf,
			})
			if res.Err != nil {
				t.Fatalf("%s: %v", s.Doc, res.Err)
			}
			for _, r := range res.Rows {
				if r.Verdict == scenario.Fail {
					t.Errorf("%s: %s; target %s", r.What, r.Measured, r.Target)
				}
			}
		})
	}
}

// keepDir is where the daemons' logs of failed scenarios go.
func keepDir() string {
	if d := os.Getenv("SAMARA_KEEP"); d != "" {
		return d
	}
	return filepath.Join(os.TempDir(), "samara-failed")
}
