package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Lock takes the store in dir without opening it: no other process can open it
// until the closer is closed. What a crash left in it stays as it is.
// Errors: ErrLocked, or the system's.
func Lock(dir string) (io.Closer, error) { return lockDir(dir) }

// Peek opens the complete content of blob d of the store in dir, which another
// process may be using: it takes no lock and counts as no use. The file stays
// readable after eviction and holds what it held. Of Info it gives Size, Kept
// and Meta, as far as they are known.
// Errors: ErrNotFound, a bad digest, or the system's.
func Peek(dir string, d digest.Digest) (*os.File, Info, error) {
	if err := checkDigest(d); err != nil {
		return nil, Info{}, err
	}
	s := &Store{dir: dir}
	blob := s.blobDir(d)
	data := filepath.Join(blob, dataName)
	for _, path := range []string{data, s.smallPath(d), data} { // a cached blob may move meanwhile
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, Info{}, dirError(dir, err)
		}
		in := Info{Digest: d, Complete: true}
		fi, err := f.Stat()
		if err == nil {
			in.Size = fi.Size()
			var m *goodMeta
			if m, _, err = readMeta(blob, d); err == nil && m != nil {
				in.Meta, in.Kept = m.Meta, m.kept
			}
		}
		if err != nil {
			f.Close()
			return nil, Info{}, dirError(dir, err)
		}
		return f, in, nil
	}
	return nil, Info{}, fmt.Errorf("%w: %s", ErrNotFound, d)
}

// List lists what Peek finds in the store in dir, in order. Content that comes
// or goes meanwhile may be in the list, or not. A store of another version is
// refused.
func List(dir string) ([]digest.Digest, error) {
	if _, err := knownVersion(dir); err != nil {
		return nil, err
	}
	var list []digest.Digest
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		dirs, err := subdirs(filepath.Join(dir, blobsName, string(alg)), 2)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, dirError(dir, err)
		}
		for _, d := range dirs {
			if _, err := os.Stat(filepath.Join(d, dataName)); err == nil {
				list = append(list, digest.NewDigestFromEncoded(alg, filepath.Base(d)))
			}
		}
		small, err := os.ReadDir(filepath.Join(dir, smallName, string(alg)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, dirError(dir, err)
		}
		for _, e := range small {
			list = append(list, digest.NewDigestFromEncoded(alg, e.Name()))
		}
	}
	list = slices.DeleteFunc(list, func(d digest.Digest) bool { return checkDigest(d) != nil })
	slices.Sort(list)
	return slices.Compact(list), nil
}
