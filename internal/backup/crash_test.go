package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// The crash tests kill a child (storetest.KillAfter) that backs up or restores,
// and says each step. The next run must finish, and all that was done must be
// there, each byte right.

const (
	crashKindEnv = "SAMARA_BACKUP_CRASH" // backup or restore
	crashDataEnv = "SAMARA_BACKUP_CRASH_DATA"
	crashDirEnv  = "SAMARA_BACKUP_CRASH_DIR"
	crashKills   = 6
	crashKeep    = 3
)

// crashChild is the child's whole life; in any other process it does nothing.
func crashChild() {
	data, dir := os.Getenv(crashDataEnv), os.Getenv(crashDirEnv)
	say := func(step string) { storetest.Say("%s", step) }
	var err error
	switch os.Getenv(crashKindEnv) {
	case "backup":
		for err == nil {
			var r *Report
			if r, err = Backup(context.Background(), Options{Data: data, Dir: dir, Keep: crashKeep, step: say}); err == nil {
				say("done " + r.Snapshot.ID)
			}
		}
	case "restore":
		if _, err = Restore(context.Background(), RestoreOptions{Dir: dir, Data: data, step: say}); err == nil {
			for { // until it is killed
				say("done")
			}
		}
	default:
		return
	}
	say("error " + err.Error())
	os.Exit(1)
}

// killAfter lets a child do n steps, and returns them.
func killAfter(kind, data, dir string, n int) (steps []string, err error) {
	_, err = storetest.KillAfter(n, func(line string) error {
		steps = append(steps, line)
		if strings.HasPrefix(line, "error") {
			return errors.New("child: " + line)
		}
		return nil
	}, crashKindEnv+"="+kind, crashDataEnv+"="+data, crashDirEnv+"="+dir)
	return steps, err
}

// change pushes something new to a data directory, and removes something old.
func change(dir string, i int) (err error) {
	s, err := openSeeder(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	repo := fmt.Sprint("team/app", i%3)
	old, _ := s.complete(repo, "latest") // none at first
	if _, err := s.image(repo, "latest", nil, storetest.Content(uint64(i), 1+i%5*150_000), fmt.Append(nil, i)); err != nil {
		return err
	}
	if old == "" {
		return nil
	}
	return s.remove(repo, old)
}

// A backup that is killed leaves what it has: the next one finishes, all
// snapshots are whole, and those that were told are there.
func TestKilledBackup(t *testing.T) {
	data, dir := t.TempDir(), t.TempDir()
	rng := rand.New(rand.NewPCG(3, 5))
	at := make(map[string]int)
	told := ""
	for kill := range storetest.Kills(t, crashKills) {
		if err := change(data, kill); err != nil {
			t.Fatal(err)
		}
		heard, err := killAfter("backup", data, dir, 1+rng.IntN(80)) // a run has about 20 steps
		if err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		at[heard[len(heard)-1]]++
		for _, line := range heard {
			if id, ok := strings.CutPrefix(line, "done "); ok {
				told = id
			}
		}
		c, err := Verify(t.Context(), dir, &Progress{})
		if err != nil || len(c.Problems) > 0 {
			t.Fatalf("kill %d, at %q: %+v, %v", kill, heard[len(heard)-1], c, err)
		}
		if told != "" && !slices.ContainsFunc(c.Snapshots, func(s Snapshot) bool { return s.ID == told }) {
			t.Fatalf("kill %d, at %q: snapshot %s was told and is not there", kill, heard[len(heard)-1], told)
		}
		if kill%3 != 2 {
			continue
		}
		r, err := Backup(t.Context(), Options{Data: data, Dir: dir, Keep: crashKeep})
		if err != nil || len(r.Problems) > 0 {
			t.Fatalf("after kill %d: %+v, %v", kill, r, err)
		}
		told = r.Snapshot.ID
		same(t, data, dir)
	}
	t.Logf("killed at %v", at)
}

// same wants a restore of the newest snapshot to be what the data directory is.
func same(t *testing.T, data, dir string) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "new")
	if _, err := Restore(t.Context(), RestoreOptions{Dir: dir, Data: to}); err != nil {
		t.Fatal(err)
	}
	compare(t, data, to)
}

func compare(t *testing.T, data, to string) {
	t.Helper()
	want, err := restored(data)
	if err != nil {
		t.Fatalf("source: %v", err)
	}
	got, err := restored(to)
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("%v, %v\nwant %v", got, err, want)
	}
}

// A restore that is killed is not taken for done, and the next one finishes it.
func TestKilledRestore(t *testing.T) {
	data, dir := t.TempDir(), t.TempDir()
	for i := range 7 {
		if err := change(data, i); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Backup(t.Context(), Options{Data: data, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	steps := 2*r.Snapshot.Blobs + r.Snapshot.Files + 4
	rng := rand.New(rand.NewPCG(7, 11))
	at := make(map[string]int)
	for kill := range storetest.Kills(t, crashKills) {
		to := filepath.Join(t.TempDir(), "new")
		for range 1 + rng.IntN(3) { // several times in a row
			n := 1 + rng.IntN(steps)
			if rng.IntN(3) == 0 {
				n = max(1, steps-rng.IntN(6)) // where all is moved up
			}
			heard, err := killAfter("restore", to, dir, n)
			if err != nil {
				t.Fatalf("kill %d: %v", kill, err)
			}
			at[heard[len(heard)-1]]++
			_, half := os.Stat(filepath.Join(to, UnfinishedName))
			_, whole := os.Stat(filepath.Join(to, "registry"))
			if half != nil && whole != nil {
				t.Fatalf("kill %d, at %q: nothing says that the restore is not finished", kill, heard[len(heard)-1])
			}
			if half != nil && whole == nil {
				break // it was done when it was killed
			}
		}
		if _, err := os.Stat(filepath.Join(to, UnfinishedName)); err == nil {
			if _, err := Restore(t.Context(), RestoreOptions{Dir: dir, Data: to}); err != nil {
				t.Fatalf("after kill %d: %v", kill, err)
			}
		}
		compare(t, data, to)
	}
	t.Logf("killed at %v", at)
}
