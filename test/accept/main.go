// Command accept runs the acceptance table at full size: 8 hosts, 256 MiB, links
// of 100 Mbit/s, an HTTP client and containerd. It needs root, iproute2,
// docker-registry and containerd.
//
//	go run ./test/accept                      everything
//	go run ./test/accept --list               what there is
//	go run ./test/accept --run herd           scenarios whose name matches
//	go run ./test/accept --small --json out.json
//
// It exits with 1 when a promise is broken and 2 when a run could not be made.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/samara-p2p/samara/test/lab"
	"github.com/samara-p2p/samara/test/scenario"
)

func main() {
	list := flag.Bool("list", false, "print the scenarios and end")
	pattern := flag.String("run", "", "regular expression; only scenarios whose name matches")
	small := flag.Bool("small", false, "the size of make test instead of the full one")
	jsonPath := flag.String("json", "", "write the results to this file")
	keep := flag.String("keep", filepath.Join(os.TempDir(), "samara-failed"), "directory for the daemons' logs of failed scenarios")
	profile := flag.String("profile", "", "directory for CPU profiles of the seeder and a peerd in a herd")
	repeat := flag.Int("repeat", 1, "run each scenario this many times")
	flag.Parse()
	if *list {
		for _, s := range scenario.All() {
			fmt.Printf("%-20s %s\n", s.Name, s.Doc)
		}
		return
	}
	size := scenario.Full
	if *small {
		size = scenario.Small
	}
	status, err := run(*pattern, *jsonPath, *repeat, scenario.Config{Size: size, Keep: *keep, Profile: *profile, Logf: progress})
	if err != nil {
		fmt.Fprintln(os.Stderr, "accept:", err)
	}
	os.Exit(status)
}

func run(pattern, jsonPath string, repeat int, c scenario.Config) (int, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return 2, fmt.Errorf("--run: %w", err)
	}
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	if c.Bin, err = lab.Build(ctx, dir); err != nil {
		return 2, err
	}
	var results []scenario.Result
	for _, s := range scenario.All() {
		if !re.MatchString(s.Name) {
			continue
		}
		if err := s.Missing(); err != nil {
			return 2, fmt.Errorf("%s: %w", s.Name, err)
		}
		for range repeat {
			fmt.Printf("== %s: %s\n", s.Name, s.Doc)
			res := scenario.Run(ctx, s, c)
			if res.Err != nil {
				fmt.Printf("   could not be carried out: %v\n", res.Err)
			}
			results = append(results, res)
		}
	}
	if len(results) == 0 {
		return 2, fmt.Errorf("no scenario matches %q", pattern)
	}
	printTable(results)
	if jsonPath != "" {
		if err := writeJSON(jsonPath, c.Size, results); err != nil {
			return 2, err
		}
	}
	for _, r := range results {
		if r.Failed() {
			return 1, nil
		}
	}
	return 0, nil
}

func progress(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

func printTable(results []scenario.Result) {
	fmt.Printf("\n%-6s %-20s %-62s %-26s %s\n", "", "scenario", "promise", "target", "measured")
	for _, res := range results {
		for _, r := range res.Rows {
			fmt.Printf("%-6s %-20s %-62s %-26s %.140s\n", r.Verdict, r.Scenario, r.What, r.Target, r.Measured)
		}
		if res.Err != nil {
			fmt.Printf("%-6s %-20s %v\n", scenario.Fail, res.Scenario, res.Err)
		}
	}
}

func writeJSON(path string, size scenario.Size, results []scenario.Result) error {
	doc := struct {
		Time    time.Time         `json:"time"`
		CPUs    int               `json:"cpus"`
		Go      string            `json:"go"`
		Size    scenario.Size     `json:"size"`
		Results []scenario.Result `json:"results"`
	}{time.Now().UTC(), runtime.NumCPU(), runtime.Version(), size, results}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
