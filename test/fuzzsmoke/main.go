// Command fuzzsmoke runs every fuzz target of the module for a short time:
//
//	go run ./test/fuzzsmoke -time 5s [-run REGEXP]
//
// It ends with status 1 at the first target that finds something.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var target = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

func main() {
	d := flag.Duration("time", 5*time.Second, "time for each target")
	pattern := flag.String("run", "", "only targets whose name matches")
	flag.Parse()
	if err := run(*d, *pattern); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzsmoke:", err)
		os.Exit(1)
	}
}

func run(d time.Duration, pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	n := 0
	err = filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
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
			if name := string(m[1]); re.MatchString(name) {
				n++
				if err := fuzz("./"+filepath.ToSlash(filepath.Dir(path)), name, d); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && n == 0 {
		return fmt.Errorf("no fuzz target matches %q", pattern)
	}
	return err
}

func fuzz(pkg, name string, d time.Duration) error {
	start := time.Now()
	cmd := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+name+"$", "-fuzztime", d.String(), "-timeout", "5m", pkg)
	out, err := cmd.CombinedOutput()
	// The fuzzer's own workers may miss the end of its time on a busy machine:
	// that is no finding, and no failing input is named.
	if err != nil && bytes.Contains(out, []byte("context deadline exceeded")) && !bytes.Contains(out, []byte("Failing input")) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", pkg, name, err, out)
	}
	fmt.Printf("ok  \t%s\t%s\t%.1fs\n", pkg, name, time.Since(start).Seconds())
	return nil
}
