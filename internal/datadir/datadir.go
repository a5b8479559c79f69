package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

const (
	versionName = "version"
	versionText = "samara-data 1\n"
)

// ErrVersion says that another version of the program made a data directory.
var ErrVersion = errors.New("unknown format")

// Check refuses a directory that this program does not know how to read. One that
// is not there, or has no version, it does.
func Check(dir string) error {
	_, err := check(dir)
	return err
}

// Claim is Check, and then writes the version where there is none.
func Claim(dir string) error {
	known, err := check(dir)
	if err != nil || known {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, versionName), []byte(versionText), 0o600, renameio.WithTempDir(dir))
}

// check reports whether the directory has a version.
func check(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, versionName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return false, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if string(text) != versionText {
		return false, fmt.Errorf("%s: %w: it is %.40q, this program knows %q; start the version of Samara that wrote it, or a later one, or give another directory",
			dir, ErrVersion, strings.TrimSpace(string(text)), strings.TrimSpace(versionText))
	}
	return true, nil
}
