package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/samara-p2p/samara/internal/cli"
)

// commands are the command lines of the daemons; none of them is run.
func commands() map[string]*cobra.Command {
	return map[string]*cobra.Command{"seeder": cli.Seeder(nil), "peerd": cli.Peerd(nil)}
}

// writeManual writes DIR/PROGRAM/man/*.1.gz, a page for each command, and
// DIR/PROGRAM/completion/{bash,zsh,fish}.
func writeManual(dir, version string, date time.Time) error {
	for name, root := range commands() {
		root.DisableAutoGenTag = true
		man, completion := filepath.Join(dir, name, "man"), filepath.Join(dir, name, "completion")
		for _, d := range []string{man, completion} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		// Generated first: cobra adds the command that prints them.
		for shell, write := range map[string]func(*bytes.Buffer) error{
			"bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
			"zsh":  func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
			"fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
		} {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(completion, shell), b.Bytes(), 0o644); err != nil {
				return err
			}
		}
		header := &doc.GenManHeader{Section: "1", Source: name + " " + version, Manual: "Samara", Date: &date}
		if err := doc.GenManTree(root, header, man); err != nil {
			return err
		}
		pages, err := filepath.Glob(filepath.Join(man, "*.1"))
		if err != nil || len(pages) == 0 {
			return fmt.Errorf("no man pages of %s in %s (%v)", name, man, err)
		}
		for _, page := range pages {
			if err := compress(page, date); err != nil {
				return err
			}
		}
	}
	return nil
}

// compress replaces FILE by FILE.gz, as Debian's policy wants man pages.
func compress(file string, date time.Time) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	w.ModTime = date
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := os.WriteFile(file+".gz", b.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Remove(file)
}
