// Command push measures what it takes to push an image to a seeder over a link
// of a known rate, and to push the same image to another repository of it. It
// needs root and iproute2, and about three times --size of disk.
//
//	go run ./test/bench/push                       make bench-push
//	go run ./test/bench/push --size 100 --runs 1
//
// Client and seeder are namespaces with a link each, shaped both ways. The client
// is go-containerregistry, of which crane and ko are made; it sends two layers at a
// time. The wire's minimum is what the bytes of the image take when each frame is
// full of them: headers of Ethernet, IPv4 and TCP are in it, those of HTTP are not.
//
// It exits with 1 when a target is missed and 2 when it could not measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

const (
	layers   = 5
	appName  = "team/app"
	copyName = "team/copy"
	tag      = "v1"
)

type options struct {
	size, rate int64
	runs       int
	json       string
}

func main() {
	var o options
	flag.Int64Var(&o.size, "size", 500, "10^6 bytes of the image, in five layers")
	flag.Int64Var(&o.rate, "rate", 100, "Mbit/s of the links")
	flag.IntVar(&o.runs, "runs", 3, "runs, each with a new seeder; the median counts")
	flag.StringVar(&o.json, "json", "", "write the report to this file")
	flag.Parse()
	rep := report.New("bench-push")
	os.Exit(rep.Finish(os.Stdout, os.Stderr, o.json, run(context.Background(), o, rep)))
}

func run(ctx context.Context, o options, rep *report.Report) error {
	if err := lab.Missing(); err != nil {
		return err
	}
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := lab.Build(ctx, dir)
	if err != nil {
		return err
	}
	spec := lab.ImageSpec{Seed: 1}
	for range layers {
		spec.Layers = append(spec.Layers, o.size*1e6/layers)
	}
	img, err := lab.NewImage(spec)
	if err != nil {
		return err
	}
	rate := lab.Rate(o.rate) * lab.Mbit
	least := time.Duration(8 * float64(img.Size()) / (float64(rate) * lab.PayloadShare(lab.DefaultMTU)) * float64(time.Second))
	pushed := report.Row{Scenario: "push", What: fmt.Sprintf("%d MB over %d Mbit/s / the wire's minimum", o.size, o.rate), Unit: "x", Target: report.AtMost(1.08),
		Note: fmt.Sprintf("minimum %.1f s", least.Seconds())}
	copied := report.Row{Scenario: "push", What: "the same to another repository", Unit: "s", Target: report.AtMost(2)}
	for i := range o.runs {
		p, c, err := one(ctx, bin, img, rate)
		if err != nil {
			return err
		}
		fmt.Printf("run %d of %d: pushed in %.2f s, copied in %.2f s\n", i+1, o.runs, p.Seconds(), c.Seconds())
		pushed.Values, copied.Values = append(pushed.Values, p.Seconds()/least.Seconds()), append(copied.Values, c.Seconds())
	}
	rep.Add(nil, pushed, copied)
	return nil
}

// one is a run with a lab of its own.
func one(ctx context.Context, bin lab.Binaries, img *lab.Image, rate lab.Rate) (pushed, copied time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	l, err := lab.New(lab.Options{Rate: rate})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	client, err := l.NewHost("client", 0)
	if err != nil {
		return 0, 0, err
	}
	host, err := l.NewHost("seeder", 0)
	if err != nil {
		return 0, 0, err
	}
	s, err := lab.StartSeeder(ctx, bin, host, lab.SeederConfig{OpenSwarm: true, Args: []string{"--local", "team", "--allow", "anyone pull+push **", "--log-level", "warn"}})
	if err != nil {
		return 0, 0, err
	}
	registry := strings.TrimPrefix(s.URL, "http://")
	c := client.HTTPClient()
	defer c.CloseIdleConnections()
	began := time.Now()
	if err := img.Push(ctx, c, registry, appName, tag); err != nil {
		return 0, 0, err
	}
	pushed = time.Since(began)
	began = time.Now()
	from, err := name.NewTag(registry+"/"+appName+":"+tag, name.Insecure)
	if err != nil {
		return 0, 0, err
	}
	to, err := name.NewTag(registry+"/"+copyName+":"+tag, name.Insecure)
	if err != nil {
		return 0, 0, err
	}
	with := []remote.Option{remote.WithContext(ctx), remote.WithTransport(c.Transport)}
	there, err := remote.Image(from, with...)
	if err != nil {
		return 0, 0, err
	}
	if err := remote.Write(to, there, with...); err != nil {
		return 0, 0, err
	}
	copied = time.Since(began)
	d, err := remote.Head(to, with...)
	if err == nil && d.Digest.String() != img.Digest() {
		err = fmt.Errorf("%s is %s, not %s", to, d.Digest, img.Digest())
	}
	return pushed, copied, err
}
