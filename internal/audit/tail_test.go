package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	if _, err := Tail(file, 5); err == nil {
		t.Error("a log that is not there has an end")
	}
	l, err := Open(Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got, err := Tail(file, 5); err != nil || len(got) != 0 {
		t.Errorf("of an empty one: %v %v", got, err)
	}
	for i := range 4000 { // more than is looked at
		l.Record(Event{Action: "pull", Outcome: "allowed", Reference: fmt.Sprint(i), Note: strings.Repeat("x", 100)})
	}
	got, err := Tail(file, 3)
	if err != nil || len(got) != 3 || got[0].Reference != "3999" || got[2].Reference != "3997" || got[0].Seq != 4000 {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := Tail(file, 4000); err != nil || len(got) >= 4000 || len(got) < 1000 || got[len(got)-1].Seq != uint64(4001-len(got)) {
		t.Errorf("%d lines of half a MiB, %v", len(got), err)
	}
	// A line that is being written, and one that was changed, are left out.
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(content), `"reference":"3998"`, `"reference":"forged"`, 1) + `{"seq":4001,"ti`
	other := filepath.Join(t.TempDir(), "other.log")
	if err := os.WriteFile(other, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Tail(other, 2); err != nil || len(got) != 2 || got[0].Reference != "3999" || got[1].Reference != "3997" {
		t.Errorf("%+v %v", got, err)
	}
}
