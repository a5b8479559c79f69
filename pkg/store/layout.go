package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	_ "crypto/sha256" // registers digest.SHA256
	_ "crypto/sha512" // registers digest.SHA512

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"golang.org/x/sys/unix"
)

// Names below the store's directory; docs/store.md describes each.
const (
	lockName    = "lock"
	versionName = "version"
	bootName    = "boot"
	blobsName   = "blobs"
	smallName   = "small"
	trashName   = "trash"

	dataName   = "data"      // content of a complete blob
	partName   = "data.part" // content of a partial blob, sparse
	piecesName = "pieces"    // one byte per piece of a partial blob
	metaName   = "meta"
	runsName   = "runs"

	versionText = "samara-store 1\n"

	dirPerm    = 0o700
	filePerm   = 0o600
	provenPerm = 0o400 // of a cached blob that was read back after its boot
)

// maxSources bounds Meta.Sources.
const maxSources = 8

// metaFile is the JSON of a blob's meta file.
type metaFile struct {
	Version   int           `json:"version"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	MediaType string        `json:"mediaType,omitempty"`
	Sources   []string      `json:"sources,omitempty"`
	Kept      bool          `json:"kept,omitempty"`
}

// checkDigest accepts what may become a path: an algorithm we know and lower
// hex of its exact length, nothing else.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("store: digest %q: %w", string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("store: digest %q: %w", string(d), digest.ErrDigestUnsupported)
	}
	return nil
}

// blobDir is the directory of blob d, which checkDigest has passed.
func (s *Store) blobDir(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(s.dir, blobsName, string(d.Algorithm()), hex[:2], hex)
}

// smallPath is the file of blob d where it is a cached one.
func (s *Store) smallPath(d digest.Digest) string {
	return filepath.Join(s.dir, smallName, string(d.Algorithm()), d.Encoded())
}

// cleanMeta drops empty and repeated sources and bounds their number.
func cleanMeta(m Meta) Meta {
	var sources []string
	for _, s := range m.Sources {
		if s != "" && len(sources) < maxSources && !slices.Contains(sources, s) {
			sources = append(sources, s)
		}
	}
	return Meta{MediaType: m.MediaType, Sources: sources}
}

func encodeMeta(d digest.Digest, size int64, m Meta, kept bool) []byte {
	b, err := json.Marshal(metaFile{Version: 1, Digest: d, Size: size, MediaType: m.MediaType, Sources: m.Sources, Kept: kept})
	if err != nil {
		panic(err) // strings and numbers only
	}
	return append(b, '\n')
}

// decodeMeta reads the meta file of blob d.
func decodeMeta(d digest.Digest, b []byte) (*goodMeta, error) {
	var m metaFile
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.Version != 1 || m.Digest != d {
		return nil, fmt.Errorf("meta version %d of %q", m.Version, m.Digest)
	}
	g, err := piece.GeometryOf(m.Size)
	if err != nil {
		return nil, err
	}
	return &goodMeta{g, cleanMeta(Meta{MediaType: m.MediaType, Sources: m.Sources}), m.Kept}, nil
}

// replaceFile puts content under path in one step as seen by any process that
// looks, now or after a SIGKILL. Only durable replacement also survives power
// loss, for the price of an fsync.
func replaceFile(path string, content []byte, durable bool) error {
	dir, name := filepath.Split(path)
	if durable {
		return renameio.WriteFile(path, content, filePerm, renameio.WithTempDir(dir))
	}
	tmp := dir + "." + name + ".tmp"
	if err := os.WriteFile(tmp, content, filePerm); err != nil {
		os.Remove(tmp)
		return err
	}
	return os.Rename(tmp, path)
}

// syncPath flushes a file or directory to the disk; one that is not there is no error.
func syncPath(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// lockDir takes the store's lock; the kernel drops it with the process.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, dirError(dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		by := ""
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 && len(b) < 32 {
			by = " (process " + strings.TrimSpace(string(b)) + ")"
		}
		return nil, fmt.Errorf("store: open %s: %w%s; stop it or choose another directory", dir, ErrLocked, by)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("store: open %s: flock: %w; the data directory must be on a file system with locks", dir, err)
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid()) // only for the message above
	}
	return f, nil
}

// dirError explains why a data directory cannot be used.
func dirError(dir string, err error) error {
	remedy := "check the directory and its disk"
	switch {
	case errors.Is(err, fs.ErrPermission):
		remedy = fmt.Sprintf("the user that runs this process (uid %d) must own the directory and may need to read, write and search everything in it", os.Geteuid())
	case errors.Is(err, unix.EROFS):
		remedy = "the file system is read-only; choose another directory or remount it"
	case errors.Is(err, unix.ENOTDIR):
		remedy = "a part of this path is a file; choose another directory"
	case noSpace(err):
		remedy = "the disk is full; free some space or choose a directory on another disk"
	}
	return fmt.Errorf("store: open %s: %w; %s", dir, err, remedy)
}

// diskFree is the number of bytes an unprivileged process may still write below dir.
func diskFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("store: statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // Bsize is an int32 on some architectures
}

// diskSize is the number of bytes of the disk below dir that are used, or that
// diskFree would count: what is reserved for root is neither, as in df.
func diskSize(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("store: statfs %s: %w", dir, err)
	}
	return (int64(st.Blocks) - int64(st.Bfree) + int64(st.Bavail)) * int64(st.Bsize), nil //nolint:unconvert // Bsize is an int32 on some architectures
}
