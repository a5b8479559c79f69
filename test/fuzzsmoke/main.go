// Command fuzzsmoke runs every fuzz target of the module for a short time:
//
//	go run ./test/fuzzsmoke -time 5s [-run REGEXP]
//
// A package is built once for all of its targets, and as many packages as there
// are processors run at a time, each with one fuzzing worker. It ends with status 1
// at the first target that finds something.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

var target = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

// suite is a package with fuzz targets.
type suite struct {
	dir     string
	targets []string
}

func main() {
	d := flag.Duration("time", 5*time.Second, "time for each target")
	pattern := flag.String("run", "", "only targets whose name matches")
	flag.Parse()
	if err := run(context.Background(), *d, *pattern); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzsmoke:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, d time.Duration, pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	suites, err := find(re)
	if err != nil {
		return err
	}
	if len(suites) == 0 {
		return fmt.Errorf("no fuzz target matches %q", pattern)
	}
	// What was found interesting before, as `go test -fuzz` keeps it.
	cache, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return fmt.Errorf("go env GOCACHE: %w", err)
	}
	work, err := os.MkdirTemp("", "fuzzsmoke-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// The longest first, so that none is left over at the end.
	slices.SortStableFunc(suites, func(a, b suite) int { return len(b.targets) - len(a.targets) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range suites {
		g.Go(func() error {
			return s.fuzz(ctx, filepath.Join(work, fmt.Sprint(i)), filepath.Join(strings.TrimSpace(string(cache)), "fuzz"), d)
		})
	}
	return g.Wait()
}

// find looks for targets in the tree.
func find(re *regexp.Regexp) ([]suite, error) {
	var suites []suite
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata"):
			return filepath.SkipDir
		case e.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range target.FindAllSubmatch(text, -1) {
			if !re.Match(m[1]) {
				continue
			}
			if dir := filepath.Dir(path); len(suites) == 0 || suites[len(suites)-1].dir != dir {
				suites = append(suites, suite{dir: dir})
			}
			last := &suites[len(suites)-1]
			last.targets = append(last.targets, string(m[1]))
		}
		return nil
	})
	return suites, err
}

func (s suite) fuzz(ctx context.Context, binary, cache string, d time.Duration) error {
	pkg := "./" + filepath.ToSlash(s.dir)
	build := exec.CommandContext(ctx, "go", "test", "-c", "-fuzz", ".", "-o", binary, pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	for _, name := range s.targets {
		start := time.Now()
		cmd := exec.CommandContext(ctx, binary, "-test.run", "^$", "-test.fuzz", "^"+name+"$", "-test.fuzztime", d.String(),
			"-test.parallel", "1", "-test.timeout", "5m", "-test.fuzzcachedir", filepath.Join(cache, s.dir))
		cmd.Dir = s.dir
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			return ctx.Err() // another has found something
		}
		// The fuzzer's own worker may miss the end of its time on a busy machine:
		// that is no finding, and no failing input is named.
		if err != nil && bytes.Contains(out, []byte("context deadline exceeded")) && !bytes.Contains(out, []byte("Failing input")) {
			err = nil
		}
		if err == nil && !bytes.Contains(out, []byte("fuzz: elapsed: ")) {
			err = errors.New("it did not fuzz")
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w\n%s", pkg, name, err, out)
		}
		fmt.Printf("ok  \t%s\t%s\t%.1fs\n", pkg, name, time.Since(start).Seconds())
	}
	return nil
}
