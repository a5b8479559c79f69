package daemon_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/status"
)

const operations = "../../docs/operations.md"

// The page names each field of the status document.
func TestOperationsPageListsStatus(t *testing.T) {
	page, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[status.Status]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "`"+name+"[]`") {
			t.Errorf("%s does not name %s", operations, name)
		}
	}
}

// The page says what to do about each warning.
func TestOperationsPageListsWarnings(t *testing.T) {
	page, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range status.WarningCodes {
		if !strings.Contains(string(page), "\n| `"+code+"` |") {
			t.Errorf("%s does not name the warning %s", operations, code)
		}
	}
}
