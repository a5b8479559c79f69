package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Names in a backup; docs/moving.md describes each.
const (
	versionName   = "version"
	versionText   = "samara-backup 1\n"
	lockName      = "lock"
	contentName   = "content"
	snapshotsName = "snapshots"
	partialName   = "partial" // what is on its way in or out
	entriesName   = "entries"
	sumsName      = "SHA256SUMS"

	dirPerm  = 0o700
	filePerm = 0o600

	// maxLine bounds one line of a snapshot: a link, in base64.
	maxLine = 2 * registry.MaxManifestSize
)

// header is the first line of a snapshot.
type header struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	Program string    `json:"program"`
	Proxied bool      `json:"proxied"` // it has what was fetched, too
}

// entry is any other line: a file, or content of the store.
type entry struct {
	// Path is of a small file, relative to the data directory, with slashes.
	Path string      `json:"path,omitempty"`
	Mode fs.FileMode `json:"mode,omitempty"` // permissions
	Time time.Time   `json:"time,omitzero"`  // of last modification
	Data []byte      `json:"data,omitempty"`

	Digest    digest.Digest `json:"digest,omitempty"`
	Size      int64         `json:"size,omitempty"`
	MediaType string        `json:"mediaType,omitempty"`
	Sources   []string      `json:"sources,omitempty"`
	Kept      bool          `json:"kept,omitempty"` // a local repository links to it
}

// check refuses what would lead out of the data directory.
func (e *entry) check() error {
	if e.Digest != "" {
		_, err := registry.ParseDigest(e.Digest.String())
		return err
	}
	if !fs.ValidPath(e.Path) || e.Path == "." || strings.HasPrefix(e.Path, ".") {
		return fmt.Errorf("path %q leads elsewhere", e.Path)
	}
	return nil
}

// Snapshot is what one run has saved.
type Snapshot struct {
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	Proxied bool      `json:"proxied"`
	Tags    int       `json:"tags"`
	Files   int       `json:"files"`
	Blobs   int       `json:"blobs"`
	Bytes   int64     `json:"bytes"` // of the blobs

	entries []entry
}

// repo is a backup's directory, locked.
type repo struct {
	dir  string
	lock *os.File
}

// openRepo opens a backup: to be written to (and made, if need be), or to be
// read beside others that read.
func openRepo(dir string, write bool) (*repo, error) {
	flags, how := os.O_RDONLY, unix.LOCK_SH
	if write {
		flags, how = os.O_RDWR|os.O_CREATE, unix.LOCK_EX
		if err := makeRepo(dir); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, versionName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no backup is there (%w)", dir, err)
	}
	if err == nil && string(text) != versionText {
		err = fmt.Errorf("%s: its format is %.40q, this program knows %q", dir, text, strings.TrimSpace(versionText))
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), flags, filePerm)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: another command works on this backup; wait for it to end (%w)", dir, err), f.Close())
	}
	r := &repo{dir: dir, lock: f}
	if write {
		if err := r.clean(); err != nil {
			return nil, errors.Join(err, r.close())
		}
	}
	return r, nil
}

// makeRepo makes an empty backup in a directory that has nothing else.
func makeRepo(dir string) error {
	if err := os.MkdirAll(dir, dirPerm); err != nil {
		return err
	}
	path := filepath.Join(dir, versionName)
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+versionName) { // of a run that was killed here
			return fmt.Errorf("%s: it is not empty and no backup; give another directory", dir)
		}
	}
	return renameio.WriteFile(path, []byte(versionText), filePerm, renameio.WithTempDir(dir))
}

// clean removes what an interrupted run left.
func (r *repo) clean() error {
	err := os.RemoveAll(r.path(partialName))
	for _, d := range []string{partialName, snapshotsName, contentName} {
		err = errors.Join(err, os.MkdirAll(r.path(d), dirPerm))
	}
	return err
}

func (r *repo) close() error { return r.lock.Close() }

func (r *repo) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

// contentPath is where content is, relative to the backup, with slashes.
func contentPath(d digest.Digest) string {
	return path.Join(contentName, d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// writeSnapshot makes a snapshot appear, in one step. All content it names is
// there; sums are its SHA-256 sums where they are not its digest.
func (r *repo) writeSnapshot(h header, entries []entry, sums map[digest.Digest]string) error {
	tmp := r.path(partialName, h.ID)
	if err := os.Mkdir(tmp, dirPerm); err != nil {
		return err
	}
	var list bytes.Buffer
	sum, err := writeFile(filepath.Join(tmp, entriesName), func(w io.Writer) error {
		enc := json.NewEncoder(w)
		err := enc.Encode(h)
		for i := range entries {
			err = errors.Join(err, enc.Encode(&entries[i]))
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(&list, "%s  %s\n", sum, path.Join(snapshotsName, h.ID, entriesName))
	for _, e := range entries {
		if e.Digest == "" {
			continue
		}
		sum := e.Digest.Encoded()
		if s, ok := sums[e.Digest]; ok {
			sum = s
		}
		fmt.Fprintf(&list, "%s  %s\n", sum, contentPath(e.Digest))
	}
	if _, err := writeFile(filepath.Join(tmp, sumsName), func(w io.Writer) error { _, err := list.WriteTo(w); return err }); err != nil {
		return err
	}
	if err := syncFS(r.dir); err != nil { // names of content, too
		return err
	}
	if err := os.Rename(tmp, r.path(snapshotsName, h.ID)); err != nil {
		return err
	}
	return syncFS(r.dir)
}

// writeFile writes and flushes a file, and returns its SHA-256 sum.
func writeFile(path string, fill func(io.Writer) error) (string, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, filePerm)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	w := bufio.NewWriter(io.MultiWriter(f, h))
	err = fill(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, f.Close())
}

// syncFS flushes the file system that path is on.
func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// list names the snapshots, oldest first.
func (r *repo) list() ([]string, error) {
	entries, err := os.ReadDir(r.path(snapshotsName))
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	slices.Sort(ids)
	return ids, err
}

// snapshot reads one, and checks it against its sum.
func (r *repo) snapshot(id string) (*Snapshot, error) {
	name := path.Join(snapshotsName, id, entriesName)
	sums, err := os.ReadFile(r.path(snapshotsName, id, sumsName))
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	want, _, ok := strings.Cut(string(sums), "  "+name+"\n")
	f, err := os.Open(r.path(snapshotsName, id, entriesName))
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	defer f.Close()
	h := sha256.New()
	s, err := readSnapshot(f, h)
	if got := hex.EncodeToString(h.Sum(nil)); !ok || got != want {
		err = fmt.Errorf("%s is damaged: its SHA-256 sum is %s, not %.64q", name, got, want)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return s, nil
}

// readSnapshot reads all of f, whatever it is, so that h is the sum of it.
func readSnapshot(f io.Reader, h hash.Hash) (*Snapshot, error) {
	r := io.TeeReader(f, h)
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var head header
	s := &Snapshot{}
	var err error
	for n := 0; err == nil && lines.Scan(); n++ {
		if n == 0 {
			err = json.Unmarshal(lines.Bytes(), &head)
			continue
		}
		var e entry
		if err = json.Unmarshal(lines.Bytes(), &e); err == nil {
			err = e.check()
		}
		s.count(e)
		s.entries = append(s.entries, e)
	}
	_, rest := io.Copy(io.Discard, r)
	if err = errors.Join(err, lines.Err(), rest); err == nil && head.Version != 1 {
		err = fmt.Errorf("its version is %d, this program knows 1", head.Version)
	}
	s.ID, s.Started, s.Proxied = head.ID, head.Started, head.Proxied
	return s, err
}

func (s *Snapshot) count(e entry) {
	if e.Digest != "" {
		s.Blobs++
		s.Bytes += e.Size
		return
	}
	s.Files++
	if _, kind, _, ok := splitLink(e.Path); ok && kind == tagsName {
		s.Tags++
	}
}
