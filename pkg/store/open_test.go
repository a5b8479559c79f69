package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/samara-p2p/samara/pkg/store"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func open(t *testing.T, dir string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// blobPath is where docs/store.md says that a blob lies.
func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

// leave leaves a partial blob with these pieces, and a complete one if pieces is nil.
func leave(t *testing.T, dir string, f crashBlob, o store.Options, pieces ...int) {
	t.Helper()
	s := open(t, dir, o)
	defer s.Close()
	if pieces == nil {
		if err := s.Put(f.digest, f.content, store.Meta{MediaType: "x/y"}); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := s.Create(f.digest, int64(len(f.content)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	for _, i := range pieces {
		if _, err := b.WritePiece(i, f.piece(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.SetRuns([][]byte{[]byte("a run")}); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	cases := map[string]struct {
		spoil func(t *testing.T, dir string) // dir was a good store
		says  []string
	}{
		"a file": {func(t *testing.T, dir string) {
			os.RemoveAll(dir)
			os.WriteFile(dir, nil, 0o600)
		}, []string{"not a directory", "choose another directory"}},
		"of another version": {func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, "version"), []byte("samara-store 2\n"), 0o600)
		}, []string{`"samara-store 2"`, `"samara-store 1"`, "use the program that wrote it"}},
		"in use": {func(t *testing.T, dir string) {
			open(t, dir, store.Options{})
		}, []string{fmt.Sprintf("another process uses this data directory (process %d)", os.Getpid()), "stop it or choose another directory"}},
		"not writable": {func(t *testing.T, dir string) {
			chmod(t, dir, 0o555)
			asNobody(t)
		}, []string{"permission denied", "must own the directory", "uid"}},
		"with an unreadable shard": {func(t *testing.T, dir string) {
			chownAll(t, dir)
			asNobody(t)
			chmod(t, filepath.Dir(blobPath(dir, crashFixtures()[1].digest)), 0)
		}, []string{"permission denied", "must own the directory"}},
		"with an unreadable blob": {func(t *testing.T, dir string) {
			chownAll(t, dir)
			asNobody(t)
			chmod(t, filepath.Join(blobPath(dir, crashFixtures()[1].digest), "meta"), 0)
		}, []string{"permission denied", "must own the directory"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			leave(t, dir, crashFixtures()[1], store.Options{})
			os.Chmod(filepath.Dir(dir), 0o755)
			os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755)
			c.spoil(t, dir)
			s, err := store.Open(dir, store.Options{})
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			for _, part := range append(c.says, dir) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

const nobody = 65534

// asNobody takes root's rights over files from this goroutine until the test ends.
func asNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		return // has none
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := syscall.Setfsuid(nobody); err != nil {
		t.Skipf("cannot act as another user: %v", err)
	}
	t.Cleanup(func() { syscall.Setfsuid(0) })
}

// chmod lasts until the test ends, so that its directory can be removed.
func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Cleanup(func() { os.Chmod(path, 0o700) })
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func chownAll(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		return
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLockEndsWithClose(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	if _, err := store.Open(dir, store.Options{}); err == nil {
		t.Fatal("opened twice")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, store.Options{})
}

// The order of use survives a restart, written at most once a minute.
func TestLastUseSurvives(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	o := store.Options{Now: func() time.Time { return now }, BootID: "b"}
	s := open(t, dir, o)
	f := crashFixtures()[:3]
	for _, f := range f {
		if err := s.Put(f.digest, f.content, store.Meta{}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Hour)
	}
	use := func(f crashBlob) {
		b, err := s.Blob(f.digest)
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	use(f[0])
	written := now
	now = now.Add(59 * time.Second)
	use(f[0]) // not written
	s.Close()

	s = open(t, dir, o)
	i, err := s.Stat(f[0].digest)
	if err != nil || !i.LastUse.Equal(written) {
		t.Fatalf("last use is %v, %v; want %v", i.LastUse, err, written)
	}
	s.Close()
	o.Quota = int64(len(f[0].content))
	s = open(t, dir, o)
	if infos := s.Infos(); len(infos) != 1 || infos[0].Digest != f[0].digest {
		t.Fatalf("left is %v", infos)
	}
}

func TestMetricsAndLogs(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	reg := prometheus.NewPedanticRegistry()
	f := crashFixtures()[:3]
	quota := int64(len(f[2].content) + 50)
	o := store.Options{Quota: quota, Registerer: reg, Namespace: "peerd", Log: zap.New(core)}
	dir := t.TempDir()
	s := open(t, dir, o)
	if _, err := store.Open(t.TempDir(), o); err == nil {
		t.Fatal("the same metrics were registered twice")
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(s.Put(f[0].digest, f[0].content, store.Meta{}))
	check(s.Put(f[2].digest, f[2].content, store.Meta{})) // evicts
	if err := s.Put(crashFixtures()[3].digest, crashFixtures()[3].content, store.Meta{}); !errors.Is(err, store.ErrFull) {
		t.Fatal(err)
	}
	b, err := s.Create(f[1].digest, int64(len(f[1].content)))
	check(err)
	_, err = b.WritePiece(0, make([]byte, len(f[1].content)))
	check(err)
	if err := b.Commit(true); !errors.Is(err, store.ErrCorrupt) {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	check(err)
	got := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if free, size := got["peerd_store_disk_free_bytes"], got["peerd_store_disk_size_bytes"]; free <= 0 || size < free {
		t.Errorf("%v of %v bytes of the disk are free", free, size)
	}
	delete(got, "peerd_store_disk_free_bytes")
	delete(got, "peerd_store_disk_size_bytes")
	maps.DeleteFunc(got, func(name string, n float64) bool { return n == 0 && strings.Contains(name, "_evict") }) // for other reasons
	want := map[string]float64{
		"peerd_store_blobs complete": 0, "peerd_store_blobs partial": 1,
		"peerd_store_used_bytes": 0, "peerd_store_promised_bytes": float64(len(f[1].content)),
		"peerd_store_reserved_bytes": 0, "peerd_store_damaged_blobs": 0, "peerd_store_quota_bytes": float64(quota),
		"peerd_store_commits_total": 2, "peerd_store_corrupt_total": 1, "peerd_store_evictions_total quota": 2,
		"peerd_store_evicted_bytes_total quota": float64(len(f[0].content) + len(f[2].content)), "peerd_store_full_total": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("metrics are %v, want %v", got, want)
	}
	b.Release()
	check(s.Close())
	open(t, dir, o) // the registry is free again

	var said []string
	for _, e := range logs.All() {
		said = append(said, e.Message)
	}
	wantLog := "store open|blob complete|blob evicted|blob complete|store full|blob evicted|blob was wrong, dropped|store closed|store open"
	if text := strings.Join(said, "|"); text != wantLog {
		t.Errorf("log is %s\nwant %s", text, wantLog)
	}
}
