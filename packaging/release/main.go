// Command release makes everything that a release consists of: static binaries
// for each architecture, man pages and shell completion, Debian packages,
// container images, a bill of materials for each binary, and checksums.
//
//	go run ./packaging/release --version v1.2.3 --out dist --nfpm bin/nfpm
//
// The same commit makes the same bytes: times are the commit's
// ($SOURCE_DATE_EPOCH), paths are left out, lists are sorted. Nothing is
// fetched that the Go module cache does not hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	r := release{daemons: []string{"seeder", "peerd"}}
	var arches string
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.StringVar(&r.out, "out", "dist", "directory that gets the artefacts; it must not exist, or be empty")
	flags.StringVar(&r.version, "version", "", "what the binaries say they are, like v1.2.3")
	flags.StringVar(&arches, "arch", "amd64,arm64", "architectures")
	flags.StringVar(&r.nfpm, "nfpm", "", "the nfpm program; without it no Debian packages are made")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if r.time, err = sourceTime(ctx); err != nil {
		return err
	}
	if err := emptyDir(r.out); err != nil {
		return err
	}
	if r.version == "" {
		return errors.New("--version is missing: the Makefile takes it from git describe")
	}
	if err := checkManifests("manifests", r.version, r.daemons); err != nil {
		return err
	}
	r.arches = strings.Split(arches, ",")
	if r.work, err = os.MkdirTemp("", "samara-release-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.work)
	return r.make(ctx)
}

// sourceTime is the time that all artefacts carry.
func sourceTime(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("give SOURCE_DATE_EPOCH, or run it in the git clone: %w", err)
		}
		text = strings.TrimSpace(string(out))
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is to be seconds since 1970: %w", err)
	}
	return time.Unix(n, 0).UTC(), nil
}

// emptyDir makes the directory, and refuses one with content: what lay there
// before would be taken for a part of the release.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: remove it, or name another with --out", filepath.Clean(dir))
	}
	return nil
}
