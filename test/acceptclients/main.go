// Command acceptclients runs the matrix of real clients and faults: each client
// of test/clients in each condition. It needs root, iproute2, and the clients
// (make clients runtimes); those that are missing are named and left out.
//
//	go run ./test/acceptclients                              everything, ~ 1 h
//	go run ./test/acceptclients --list
//	go run ./test/acceptclients --clients 'docker|podman' --conditions '^upstream'
//	go run ./test/acceptclients --json out.json --worlds 3
//	go run ./test/acceptclients --rolling                    a rolling upgrade of a fleet instead
//
// It exits with 1 when a cell is not as it should be and 2 when it could not be run.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/samara-p2p/samara/test/clients"
	"github.com/samara-p2p/samara/test/lab"
)

func main() {
	list := flag.Bool("list", false, "print clients and conditions and end")
	kinds := flag.String("clients", "", "regular expression; only clients whose name matches")
	conditions := flag.String("conditions", "", "regular expression; only conditions whose name matches")
	jsonPath := flag.String("json", "", "write the cells to this file")
	keep := flag.String("keep", filepath.Join(os.TempDir(), "samara-failed"), "directory for the daemons' logs of cells that are not as they should be")
	worlds := flag.Int("worlds", 3, "clients at a time: most of a cell is waiting")
	rolls := flag.Bool("rolling", false, "instead of the matrix: one host for each of eight clients, and a rolling upgrade in each way while all pull")
	flag.Parse()
	if *list {
		for _, k := range clients.Kinds() {
			says := k.Version(context.Background())
			if err := k.Missing(); err != nil {
				says = err.Error()
			}
			fmt.Printf("%-24s %s\n", k.Name, says)
		}
		for _, c := range clients.Conditions() {
			fmt.Println(c.Name)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func() (bool, error) { return run(ctx, *kinds, *conditions, *jsonPath, *keep, *worlds) }
	if *rolls {
		run = func() (bool, error) { return rolling(ctx, *kinds, *jsonPath, *keep) }
	}
	bad, err := run()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "acceptclients:", err)
		os.Exit(2)
	case bad:
		os.Exit(1)
	}
}

// layers are of the image that is pulled, in bytes.
var layers = []int{4 << 20, 3 << 20, 3 << 20, 40 << 10}

func run(ctx context.Context, kindsPattern, conditionsPattern, jsonPath, keep string, worlds int) (bad bool, err error) {
	kinds, err := chosen(clients.Kinds(), kindsPattern, func(k clients.Kind) string { return k.Name })
	if err != nil {
		return false, fmt.Errorf("--clients: %w", err)
	}
	conditions, err := chosen(clients.Conditions(), conditionsPattern, func(c clients.Condition) string { return c.Name })
	if err != nil {
		return false, fmt.Errorf("--conditions: %w", err)
	}
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	bin, err := lab.Build(ctx, dir)
	if err != nil {
		return false, err
	}
	rows := make([][]clients.Cell, len(kinds))
	errs := make([]error, len(kinds))
	next := make(chan int)
	var wg sync.WaitGroup
	for range max(1, worlds) {
		wg.Go(func() {
			for i := range next {
				rows[i], errs[i] = row(ctx, bin, kinds[i], conditions, keep)
			}
		})
	}
	for i, k := range kinds {
		if err := k.Missing(); err != nil {
			fmt.Printf("skipped: %s: %v\n", k.Name, err)
			continue
		}
		fmt.Printf("%s: %s\n", k.Name, k.Version(ctx))
		next <- i
	}
	close(next)
	wg.Wait()
	var cells []clients.Cell
	for i := range rows {
		if errs[i] != nil {
			return false, fmt.Errorf("%s: %w", kinds[i].Name, errs[i])
		}
		cells = append(cells, rows[i]...)
	}
	clients.Print(os.Stdout, cells)
	for _, c := range cells {
		bad = bad || c.Bad()
	}
	if jsonPath == "" {
		return bad, nil
	}
	return bad, writeJSON(jsonPath, cells)
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(path), append(text, '\n'), 0o644)
}

// row runs one client through all conditions, in a world of its own.
func row(ctx context.Context, bin lab.Binaries, k clients.Kind, conditions []clients.Condition, keep string) (cells []clients.Cell, err error) {
	w, err := clients.NewWorld(ctx, bin, layers)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()
	r, err := w.NewRow(ctx, k)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for _, c := range conditions {
		if ctx.Err() != nil {
			return cells, ctx.Err()
		}
		start := time.Now()
		cell := r.Run(ctx, c)
		cells = append(cells, cell)
		if err := keepLogs(keep, cell.Client+"-"+cell.Condition, cell.Logs); err != nil {
			return cells, err
		}
		fmt.Printf("%-24s %-28s %-6s %5.1f s (%.1f s in all) mirror %d straight %d peers %d seeder %d upstream %d struck %d %s\n", cell.Client, cell.Condition, cell.Verdict,
			cell.Seconds, time.Since(start).Seconds(), cell.Mirror, cell.Straight, cell.Peers, cell.Seeder, cell.Upstream, cell.Struck, cell.Reason)
	}
	return cells, nil
}

// keepLogs writes what daemons printed to files that begin with title.
func keepLogs(dir, title string, logs map[string]string) error {
	if dir == "" || len(logs) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range logs {
		file := strings.ReplaceAll(fmt.Sprintf("%s-%s.log", title, name), "/", "-")
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func chosen[T any](all []T, pattern string, name func(T) string) ([]T, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var some []T
	for _, x := range all {
		if re.MatchString(name(x)) {
			some = append(some, x)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("nothing matches %q", pattern)
	}
	return some, nil
}
