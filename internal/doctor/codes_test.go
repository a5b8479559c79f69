package doctor

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// docs/doctor.md has a row for each code, and for no other.
func TestCodesPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`= "([a-z0-9-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) < 20 {
		t.Fatalf("%d codes", len(codes))
	}
	for _, c := range codes {
		if strings.Count(string(page), "\n| `"+c[1]+"` | ") != 1 {
			t.Errorf("docs/doctor.md has no row for %s", c[1])
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z][a-z0-9-]+)` \\| [a-z]+ \\|").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(string(source), `"`+row[1]+`"`) {
			t.Errorf("docs/doctor.md has a row for %s, which is no code", row[1])
		}
	}
}
