package main

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// entry is a file of an archive.
type entry struct {
	name string // in the archive, without a leading /
	file string // on this disk; "" is a directory
	mode fs.FileMode
}

// archive writes PROGRAM_VERSION_ARCH.tar.gz: what a host without packages
// needs, in one directory.
func (r *release) archive(name, arch string) error {
	top := name + "-" + r.plainVersion()
	entries := []entry{
		{name: top + "/"},
		{name: top + "/LICENSE", file: "LICENSE", mode: 0o644},
		{name: top + "/" + name, file: r.binary(name, arch), mode: 0o755},
		{name: top + "/" + name + ".service", file: "packaging/systemd/" + name + ".service", mode: 0o644},
		{name: top + "/" + name + ".yaml", file: "packaging/etc/" + name + ".yaml", mode: 0o644},
	}
	for _, part := range []string{"completion", "man"} {
		files, err := os.ReadDir(filepath.Join(r.manual(), name, part))
		if err != nil {
			return err
		}
		entries = append(entries, entry{name: top + "/" + part + "/"})
		for _, f := range files {
			entries = append(entries, entry{name: top + "/" + part + "/" + f.Name(), file: filepath.Join(r.manual(), name, part, f.Name()), mode: 0o644})
		}
	}
	out, err := os.Create(r.artefact(name, arch, "tar.gz"))
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	if err := writeTar(z, r.time, entries); err != nil {
		out.Close()
		return err
	}
	if err := z.Close(); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// writeTar writes the entries in their order, all of root and of one time.
func writeTar(to io.Writer, date time.Time, entries []entry) error {
	w := tar.NewWriter(to)
	for _, e := range entries {
		if err := addEntry(w, date, e); err != nil {
			return err
		}
	}
	return w.Close()
}

func addEntry(w *tar.Writer, date time.Time, e entry) error {
	h := &tar.Header{Name: e.name, Mode: int64(e.mode), ModTime: date, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if e.file == "" {
		h.Typeflag = tar.TypeDir
		if e.mode == 0 {
			h.Mode = 0o755
		}
		return w.WriteHeader(h)
	}
	f, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
