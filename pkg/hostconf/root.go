package hostconf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// maxFile bounds what is read of any file of the host, in bytes.
const maxFile = 8 << 20

// root is the directory in which a host's files lie. Paths given to its methods
// are the host's own: absolute, and symlinks in them end within the root.
type root struct {
	dir string
	// step is called before each change, by name; an error stands for one of
	// the change's.
	step func(what string) error
	sync func(*os.File) error
}

// resolve follows symlinks, and yields a path of the host's own without any.
func (r *root) resolve(path string) (string, error) {
	real, err := securejoin.SecureJoin(r.dir, path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	rel, err := filepath.Rel(r.dir, real)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return filepath.Join("/", rel), nil
}

// at is where a resolved path lies.
func (r *root) at(path string) string { return filepath.Join(r.dir, path) }

// read is a file's content; exists is false where there is none.
func (r *root) read(path string) (content []byte, exists bool, err error) {
	target, err := r.resolve(path)
	if err != nil {
		return nil, false, err
	}
	f, err := os.Open(r.at(target))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, cause(err))
	}
	defer f.Close() // only read
	st, err := f.Stat()
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, cause(err))
	}
	if !st.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s: is no file", path)
	}
	content, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, cause(err))
	}
	if len(content) > maxFile {
		return nil, false, fmt.Errorf("%s: has more than %d bytes, which no configuration has", path, maxFile)
	}
	return content, true, nil
}

// list is the sorted names of a directory's entries; none where there is no
// directory.
func (r *root) list(path string) ([]string, error) {
	target, err := r.resolve(path)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(r.at(target))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// exists tells whether something is at path; a symlink to nowhere is nothing.
func (r *root) exists(path string) bool {
	target, err := r.resolve(path)
	if err != nil {
		return false
	}
	_, err = os.Stat(r.at(target))
	return err == nil
}

// isDir tells whether a directory, or a symlink to one, is at path.
func (r *root) isDir(path string) bool {
	target, err := r.resolve(path)
	if err != nil {
		return false
	}
	st, err := os.Stat(r.at(target))
	return err == nil && st.IsDir()
}

// dangling tells whether path is a symlink to nowhere.
func (r *root) dangling(path string) bool {
	dir, err := r.resolve(filepath.Dir(path))
	if err != nil {
		return false
	}
	st, err := os.Lstat(filepath.Join(r.at(dir), filepath.Base(path)))
	return err == nil && st.Mode()&fs.ModeSymlink != 0 && !r.exists(path)
}

// tempOf is the file beside a resolved path that becomes it. Its name says
// nothing random, so that one left by a crash is found again: a directory of
// containerd's that is not empty could not be removed, and would shadow
// _default.
func tempOf(target string) string {
	return filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".peerd-setup")
}

// write replaces the file at a resolved path, at once and for good. Mode and
// owner stay; a new one has perm.
func (r *root) write(target string, content []byte, perm fs.FileMode) error {
	if err := r.do("write " + target); err != nil {
		return err
	}
	temp := r.at(tempOf(target))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", target, cause(err))
	}
	err = r.fill(f, r.at(target), content, perm)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = r.do("rename " + target)
	}
	if err == nil {
		err = os.Rename(temp, r.at(target))
	}
	if err != nil {
		os.Remove(temp)
		return fmt.Errorf("%s: %w", target, cause(err))
	}
	return r.syncDir(filepath.Dir(r.at(target)))
}

// fill writes what will be at target, with the mode and owner of what is there.
func (r *root) fill(f *os.File, target string, content []byte, perm fs.FileMode) error {
	uid, gid := -1, -1
	if st, err := os.Stat(target); err == nil {
		perm = st.Mode().Perm()
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && (int(sys.Uid) != os.Geteuid() || int(sys.Gid) != os.Getegid()) {
			uid, gid = int(sys.Uid), int(sys.Gid)
		}
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if uid >= 0 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return r.sync(f)
}

// remove removes the file at a resolved path, if it is there.
func (r *root) remove(target string) error {
	if err := r.do("remove " + target); err != nil {
		return err
	}
	if err := os.Remove(r.at(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", target, cause(err))
	}
	return r.syncDir(filepath.Dir(r.at(target)))
}

// tidy removes what a crash may have left of write.
func (r *root) tidy(target string) { os.Remove(r.at(tempOf(target))) }

// missing are the directories that have to be made for a resolved path, the
// upper ones first.
func (r *root) missing(dir string) []string {
	if dir == "/" || r.exists(dir) {
		return nil
	}
	return append(r.missing(filepath.Dir(dir)), dir)
}

func (r *root) mkdir(dir string, perm fs.FileMode) error {
	if err := r.do("mkdir " + dir); err != nil {
		return err
	}
	if err := os.Mkdir(r.at(dir), perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", dir, cause(err))
	}
	return nil
}

// rmdir removes a directory, if it is empty.
func (r *root) rmdir(dir string) error {
	if err := r.do("rmdir " + dir); err != nil {
		return err
	}
	err := os.Remove(r.at(dir))
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil // somebody has put something there: it is theirs now
	}
	return fmt.Errorf("%s: %w", dir, cause(err))
}

func (r *root) do(what string) error {
	if r.step == nil {
		return nil
	}
	return r.step(what)
}

func (r *root) syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer d.Close() // only read
	return r.sync(d)
}

// cause is an error of a file without the operation and the path, which is the
// one below the root.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		if errors.Is(le.Err, syscall.EBUSY) {
			return fmt.Errorf("%w: a file that is a mount point of its own cannot be replaced at once; mount its directory instead", le.Err)
		}
		return le.Err
	}
	return err
}
