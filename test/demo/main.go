// Command demo shows Samara at work: an upstream registry, a seeder and some
// peerds, each on a host of its own with a link of its own, and one image pulled
// through all of them at the same moment by a real client. It ends with what the
// pull cost. `make demo` runs it.
//
// As root, with iproute2, hosts are network namespaces on shaped links. Without,
// they are loopback addresses, and rates mean nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/samara-p2p/samara/test/lab"
)

type options struct {
	hosts    int
	mbit     int
	sizeMiB  int
	loopback bool
	client   string
	json     bool
	timeout  time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.hosts, "hosts", 4, "peerds")
	flag.IntVar(&o.mbit, "rate", 100, "speed of each host's link in Mbit/s, each way")
	flag.IntVar(&o.sizeMiB, "size", 200, "size of the large layer in MiB")
	flag.BoolVar(&o.loopback, "loopback", false, "use loopback addresses even where namespaces are possible")
	flag.StringVar(&o.client, "client", "auto", "auto, containerd, skopeo or http")
	flag.BoolVar(&o.json, "json", false, "print the result as JSON on standard output; progress goes to standard error")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this time")
	flag.Parse()
	os.Exit(run(o))
}

func run(o options) int {
	out := os.Stdout
	if o.json {
		out = os.Stderr
	}
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()

	st, err := setUp(ctx, o, say)
	defer st.close()
	if lab.Interrupted() {
		select {}
	}
	if err != nil {
		say("demo: %v", err)
		return 1
	}
	say("\nPulling %s (%s in %d layers) through %d peerds at once, with %s\n", image, size(st.image.Size()), len(st.image.Spec.Layers), o.hosts, st.clientName)
	bars := newBars(out, isatty.IsTerminal(out.Fd()), st)
	res := st.pull(ctx, bars)
	if lab.Interrupted() {
		select {} // the lab ends the process once all is removed
	}
	bars.end()
	res.print(out)
	if o.json {
		if err := res.writeJSON(os.Stdout); err != nil {
			say("demo: %v", err)
			return 1
		}
	}
	if len(res.Problems) > 0 {
		st.showLogs(say)
		return 1
	}
	return 0
}

// size prints bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
