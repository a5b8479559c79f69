package store_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

const tmpfsEnv = "SAMARA_STORE_TMPFS"

// TestDiskFull fills a real, tiny file system. It runs this test again in a
// child with a mount namespace of its own, so that nothing stays mounted.
func TestDiskFull(t *testing.T) {
	if dir := os.Getenv(tmpfsEnv); dir != "" {
		fillDisk(t, dir)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a tmpfs of 4 MiB")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe, "-test.run=^TestDiskFull$", "-test.v")
	c.Env = append(os.Environ(), tmpfsEnv+"="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := c.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skipf("this root may not make a mount namespace: %v", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skip(string(out))
	}
}

func fillDisk(t *testing.T, dir string) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("this root may not mount a tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	s := open(t, dir, store.Options{})
	defer s.Close()
	blobs := crashFixtures() // blob k has k/2 pieces' worth of bytes

	// What cannot fit is refused before a byte is written.
	big := crashFixture(2000, 5<<20)
	_, err := s.Create(big.digest, 5<<20)
	saysFull(t, err, dir, 5<<20)

	// Used blobs fill the disk; unused ones make room.
	for _, k := range []int{7, 6, 5, 4} {
		if err := s.Put(blobs[k].digest, blobs[k].content, store.Meta{}); err != nil {
			t.Fatal(err)
		}
	}
	mid := crashFixture(2001, 3<<20)
	b, err := s.Create(mid.digest, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if _, err := s.Stat(blobs[7].digest); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("the oldest blob: %v", err)
	}
	for i := range 4 {
		if _, err := b.WritePiece(i, mid.piece(i)); err != nil {
			t.Fatal(err)
		}
	}

	// Somebody else fills the rest: pieces are refused and those held stay.
	var junk []string
	for {
		name := dir + "/junk" + string(rune('a'+len(junk)))
		junk = append(junk, name)
		if err := os.WriteFile(name, make([]byte, piece.MinSize), 0o600); err != nil {
			break
		}
	}
	for i := 4; err == nil; i++ {
		_, err = b.WritePiece(i, mid.piece(i))
	}
	saysFull(t, err, dir, piece.MinSize)
	for _, i := range s.Infos() {
		if i.Digest != mid.digest {
			t.Errorf("%s was not evicted before that", i.Digest)
		}
	}
	held := b.Have().Count()
	if held < 4 || s.Usage().Used != int64(held)*piece.MinSize {
		t.Fatalf("%d pieces, %+v", held, s.Usage())
	}

	// With room again, the download goes on where it was.
	for _, name := range junk {
		os.Remove(name)
	}
	for i := range mid.g.Count() {
		if _, err := b.WritePiece(i, mid.piece(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}

	// A file of somebody else's has room made for it, too, where there can be.
	if err := s.Put(blobs[2].digest, blobs[2].content, store.Meta{}); err != nil {
		t.Fatal(err)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	if err := s.MakeRoom(free + piece.MinSize/2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(blobs[2].digest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a blob that nobody uses, of a full disk: %v", err)
	}
	saysFull(t, s.MakeRoom(2<<20), dir, 2<<20)
}

func saysFull(t *testing.T, err error, dir string, need int64) {
	t.Helper()
	var full *store.FullError
	if !errors.Is(err, store.ErrFull) || !errors.As(err, &full) {
		t.Fatalf("error is %v", err)
	}
	if full.Need != need || full.Path != dir || full.Quota != 0 || full.Free < 0 || full.Free >= need {
		t.Errorf("%+v", full)
	}
	if !strings.Contains(err.Error(), "larger disk") {
		t.Errorf("%q does not say what to do", err)
	}
}
