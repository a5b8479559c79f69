package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Open opens the store in dir, making it if need be, and puts right what a
// crash left behind. The error says what is wrong with the directory and what
// to do about it.
func Open(dir string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.BootID == "" {
		// Where the kernel does not tell, every start counts as a new boot.
		b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
		o.BootID = strings.TrimSpace(string(b))
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("store: open: %w", err)
	}
	s := &Store{dir: dir, o: o, log: o.Log, blobs: make(map[digest.Digest]*state), prefixes: newPrefixes(o.Prefixes)}
	if s.m, err = newMetrics(s, o.Namespace, o.Registerer); err != nil {
		return nil, fmt.Errorf("store: open %s: metrics: %w", dir, err)
	}
	if err := s.open(); err != nil {
		s.m.unregister()
		if s.lock != nil {
			s.lock.Close()
		}
		return nil, err
	}
	u := s.Usage()
	s.log.Info("store open", zap.String("dir", dir), zap.Int("blobs", u.Blobs), zap.Int("partial", u.Partial),
		zap.Int64("used", u.Used), zap.Int64("quota", u.Quota))
	return s, nil
}

func (s *Store) open() (err error) {
	if err := os.MkdirAll(s.dir, dirPerm); err != nil {
		return dirError(s.dir, err)
	}
	if s.lock, err = lockDir(s.dir); err != nil {
		return err
	}
	if err := s.checkVersion(); err != nil {
		return err
	}
	trash := filepath.Join(s.dir, trashName)
	err = os.RemoveAll(trash)
	// An earlier process may have left shards whose names are not durable.
	s.shards.dirty = []string{filepath.Join(s.dir, blobsName, "sha256"), filepath.Join(s.dir, blobsName, "sha512")}
	for _, d := range append(s.shards.dirty, trash, filepath.Join(s.dir, smallName, "sha256"), filepath.Join(s.dir, smallName, "sha512")) {
		if err == nil {
			err = os.MkdirAll(d, dirPerm)
		}
	}
	if err != nil {
		return dirError(s.dir, err)
	}
	if err := s.load(); err != nil {
		return dirError(s.dir, err)
	}
	s.mu.Lock()
	var out []string
	for _, st := range s.blobs {
		out = append(out, s.shrinkLocked(st)...) // quotas may be smaller than before
	}
	if s.o.Quota > 0 {
		out = append(out, s.evictLocked(s.used-s.o.Quota, "quota")...)
	}
	s.mu.Unlock()
	s.sweep(out)
	return nil
}

// checkVersion refuses a directory that another version of this package wrote, and
// gives one without a version this one's.
func (s *Store) checkVersion() error {
	known, err := knownVersion(s.dir)
	if err == nil && !known {
		err = renameio.WriteFile(filepath.Join(s.dir, versionName), []byte(versionText), filePerm, renameio.WithTempDir(s.dir))
		if err != nil {
			return dirError(s.dir, err)
		}
	}
	return err
}

// knownVersion reports whether the store in dir has a version, and refuses another
// than this one's.
func knownVersion(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, versionName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, dirError(dir, err)
	case string(b) != versionText:
		return false, fmt.Errorf("store: open %s: its format is %.40q, this program knows %q; use the program that wrote it, or another directory",
			dir, strings.TrimSpace(string(b)), strings.TrimSpace(versionText))
	}
	return true, nil
}

// load reads what every blob directory holds.
func (s *Store) load() error {
	boot := filepath.Join(s.dir, bootName)
	b, err := os.ReadFile(boot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	trusted := s.o.BootID != "" && strings.TrimSpace(string(b)) == s.o.BootID
	dirs, err := subdirs(filepath.Join(s.dir, blobsName), 3)
	if err != nil {
		return err
	}
	var all []*state
	for _, dir := range dirs {
		hex := filepath.Base(dir)
		d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(filepath.Dir(dir)))), hex)
		if checkDigest(d) != nil || s.blobDir(d) != dir {
			s.log.Warn("not a blob, left alone", zap.String("path", dir))
			continue
		}
		st, err := s.loadBlob(d, dir, trusted)
		if err != nil {
			return err
		}
		if st != nil {
			all = append(all, st)
		}
	}
	if all, err = s.loadSmall(all, trusted); err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b *state) int {
		return cmp.Or(a.lastUse.Compare(b.lastUse), cmp.Compare(a.digest, b.digest))
	})
	s.mu.Lock()
	for _, st := range all {
		s.blobs[st.digest] = st
		s.used += st.bytes
		s.idleLocked(st)
		st.users = s.prefixes.users(st.meta.Sources)
		s.recountLocked(st)
		if st.full {
			s.complete++
		}
		if st.damaged {
			s.damaged++
		}
	}
	s.mu.Unlock()
	if trusted || s.o.BootID == "" {
		return nil
	}
	return renameio.WriteFile(boot, []byte(s.o.BootID+"\n"), filePerm, renameio.WithTempDir(s.dir))
}

// subdirs returns the directories depth levels below dir. What cannot be read
// is an error: it must not look like an empty store.
func subdirs(dir string, depth int) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case !e.IsDir():
		case depth == 1:
			dirs = append(dirs, path)
		default:
			below, err := subdirs(path, depth-1)
			if err != nil {
				return nil, err
			}
			dirs = append(dirs, below...)
		}
	}
	return dirs, nil
}
