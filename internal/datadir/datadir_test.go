package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, versionName)
	if err := Check(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a directory that is not there: %v", err)
	}
	for range 2 { // the second time it is there
		if err := Claim(dir); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != versionText {
			t.Fatalf("%q, %v", b, err)
		}
	}
	for _, text := range []string{"samara-data 2\n", "", "samara-data 1", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Claim(dir)
		if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), `knows "samara-data 1"`) || len(err.Error()) > 1000 {
			t.Errorf("version %.20q: %v", text, err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("version %.20q was changed to %.20q", text, b)
		}
	}
}
