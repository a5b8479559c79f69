// Command memory measures the resident memory of the daemons where it is
// largest: VmRSS and VmHWM of their processes, as the kernel counts them. It needs
// root and iproute2.
//
//	go run ./test/bench/memory                     make bench-memory
//	go run ./test/bench/memory --run idle          one scenario: idle, move, readers
//	go run ./test/bench/memory --profile DIR       and heap profiles
//
// The idle swarm is one real peerd with a real seeder; its other peers are nodes
// of pkg/p2p that share a few processes: two hundred peerds would measure the
// machine. All of them have DHT servers and connections of their own, and each
// is a neighbour of the one that is measured.
//
// It exits with 1 when a target is missed and 2 when a run could not be made.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// bench is one run of the program.
type bench struct {
	peers, readers int
	givers         int   // peers that hold the blob that is moved
	size           int64 // of the blob that is moved, in bytes
	settle         time.Duration
	runs           int
	profile        string // directory; "" = no profiles

	bin lab.Binaries
	rep *report.Report
}

// scenario is one situation; it returns peak and resident bytes by process.
type scenario struct {
	name, what string
	limit      float64 // MiB
	run        func(*bench, context.Context) (usage, error)
}

// usage is the memory of the process that a scenario is about.
type usage struct {
	proc.Memory
	note string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == crowdCommand {
		if err := crowd(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "crowd:", err)
			os.Exit(1)
		}
		return
	}
	var b bench
	gibs := flag.Float64("size", 10, "GiB of the blob that is moved")
	flag.IntVar(&b.peers, "peers", 200, "peers of the idle swarm")
	flag.IntVar(&b.readers, "readers", 200, "slow readers of the seeder")
	flag.IntVar(&b.givers, "givers", 24, "peers that hold the blob that is moved, beside the seeder")
	flag.IntVar(&b.runs, "runs", 1, "runs of each scenario; the median counts")
	flag.DurationVar(&b.settle, "settle", 30*time.Second, "how long the idle swarm is left alone before its memory is read")
	flag.StringVar(&b.profile, "profile", "", "directory for heap profiles")
	pattern := flag.String("run", "", "regular expression; only scenarios whose name matches")
	jsonPath := flag.String("json", "", "write the report to this file")
	flag.Parse()
	b.size = int64(*gibs * gib)
	b.rep = report.New("bench-memory")
	os.Exit(b.rep.Finish(os.Stdout, os.Stderr, *jsonPath, b.main(context.Background(), *pattern)))
}

func (b *bench) main(ctx context.Context, pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("--run: %w", err)
	}
	if err := lab.Missing(); err != nil {
		return err
	}
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if b.bin, err = lab.Build(ctx, dir); err != nil {
		return err
	}
	for _, s := range []scenario{
		{"idle", fmt.Sprintf("peerd idle in a swarm of %d peers", b.peers), 96, (*bench).idle},
		{"move", fmt.Sprintf("peerd moves a blob of %.3g GiB", float64(b.size)/gib), 160, (*bench).move},
		{"readers", fmt.Sprintf("seeder with %d slow readers", b.readers), 128, (*bench).slowReaders},
	} {
		if re.MatchString(s.name) {
			if err := b.measure(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// measure runs a scenario and judges the most memory it took: of an idle
// process what it settles at, since its start is no idling.
func (b *bench) measure(ctx context.Context, s scenario) error {
	var resident, peak []float64
	note := ""
	for range b.runs {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
		u, err := s.run(b, ctx)
		cancel()
		if err != nil {
			return err
		}
		resident, peak = append(resident, float64(u.Resident)/mib), append(peak, float64(u.Peak)/mib)
		note = u.note
	}
	now := report.Row{Scenario: s.name, What: s.what + ": resident", Unit: "MiB", Values: resident}
	most := report.Row{Scenario: s.name, What: s.what + ": at most", Unit: "MiB", Values: peak, Note: note}
	if s.name == "idle" {
		now.Target = report.AtMost(s.limit)
	} else {
		most.Target = report.AtMost(s.limit)
	}
	b.rep.Add(os.Stdout, now, most)
	return nil
}

// heap keeps a heap profile of a daemon, for go tool pprof.
func (b *bench) heap(ctx context.Context, name string, get func(context.Context) (string, error)) {
	if b.profile == "" {
		return
	}
	text, err := get(ctx)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.profile, name+".heap"), []byte(text), 0o644)
	}
	if err != nil {
		fmt.Println("no heap profile:", err)
	}
}
