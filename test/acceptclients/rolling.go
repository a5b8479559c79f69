package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/samara-p2p/samara/test/clients"
	"github.com/samara-p2p/samara/test/lab"
)

// fleetKinds are the clients of a fleet: each generation and program once.
var fleetKinds = []string{"containerd-1.6-cri", "containerd-2-cri", "docker", "podman", "skopeo", "crane", "regctl", "http"}

// fleetRate of every link makes a pull last for seconds.
const fleetRate = 40 * lab.Mbit

// rolling upgrades a fleet in each way. It is bad if a pull fails.
func rolling(ctx context.Context, pattern, jsonPath, keep string) (bad bool, err error) {
	some, err := chosen(fleetKinds, pattern, func(name string) string { return name })
	if err != nil {
		return false, fmt.Errorf("--clients: %w", err)
	}
	var kinds []clients.Kind
	for _, k := range append(clients.Kinds(), clients.HTTPKind()) {
		for _, name := range some {
			if k.Name != name {
				continue
			}
			if err := k.Missing(); err != nil {
				fmt.Printf("skipped: %s: %v\n", k.Name, err)
				continue
			}
			kinds = append(kinds, k)
		}
	}
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	c := clients.FleetConfig{Kinds: kinds, Layers: layers, Rate: fleetRate}
	if c.Old, err = lab.BuildOld(ctx, dir+"/old"); err != nil {
		return false, err
	}
	if c.New, err = lab.Build(ctx, dir+"/new"); err != nil {
		return false, err
	}
	var all []*clients.Rolled
	for _, way := range []clients.Way{clients.HandOver, clients.Replace} {
		r, err := roll(ctx, c, way, keep)
		if err != nil {
			return false, fmt.Errorf("%s: %w", way, err)
		}
		print(r)
		bad = bad || r.Failed() > 0
		all = append(all, r)
	}
	if jsonPath != "" {
		err = writeJSON(jsonPath, all)
	}
	return bad, err
}

func roll(ctx context.Context, c clients.FleetConfig, way clients.Way, keep string) (*clients.Rolled, error) {
	f, err := clients.NewFleet(ctx, c)
	if err != nil {
		return nil, err
	}
	r, err := f.Roll(ctx, way)
	if err != nil || r.Failed() > 0 {
		if kerr := keepLogs(keep, "rolling-"+string(way), f.Logs()); kerr != nil {
			fmt.Fprintln(os.Stderr, "acceptclients:", kerr)
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return r, err
}

const mib = 1 << 20

func print(r *clients.Rolled) {
	fmt.Printf("\n%s: %d daemons replaced in %.0f s while %d clients pulled; %d pulls failed\n", r.Way, r.Replaced, r.Seconds, len(r.Clients), r.Failed())
	fmt.Printf("images asked for %.1f MiB; the seeder took %.1f MiB from the upstream\n", float64(r.Images)/mib, float64(r.Seeder)/mib)
	fmt.Printf("| %-20s | %5s | %6s | %7s | %9s | %12s | %15s | %18s |\n", "client", "pulls", "failed", "refused", "longest", "MiB pulled", "past the mirror", "peerd: of upstream")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, c := range r.Clients {
		name := c.Client
		if !c.Struck {
			name += " ?" // its peerd was replaced between two pulls
		}
		fmt.Printf("| %-20s | %5d | %6d | %7d | %7.1f s | %12.1f | %15.1f | %18.1f |\n", name, c.Pulls, c.Failed, c.Refused, c.Longest,
			float64(c.Bytes)/mib, float64(c.Past)/mib, float64(c.Upstream)/mib)
		if len(c.Reasons) > 0 {
			fmt.Println("  " + strings.Join(c.Reasons, "\n  "))
		}
	}
}
