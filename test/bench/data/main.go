package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

const (
	upstreamName = "registry.lab.test"
	repo, tag    = "lab/app", "v1"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == fillArg {
		fmt.Fprintln(os.Stderr, "fill:", spin())
		os.Exit(1)
	}
	if len(os.Args) == 5 && os.Args[1] == minimalArg {
		if err := minimal(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, "minimal:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.Int64Var(&o.size, "size", 512, "MiB of the blob")
	flag.IntVar(&o.runs, "runs", 3, "runs of each")
	flag.StringVar(&o.json, "json", "", "write the results to this file")
	flag.StringVar(&o.profile, "profile", "", "directory for CPU profiles, from one further run of each mode")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for data: its file system is part of what is measured")
	flag.BoolVar(&o.fill, "fill", true, "keep processors busy that would idle: they may be threads of one core")
	flag.Parse()
	rep := report.New("bench-data")
	os.Exit(rep.Finish(os.Stdout, os.Stderr, o.json, run(context.Background(), o, rep)))
}

type options struct {
	size               int64
	runs               int
	json, profile, dir string
	fill               bool
}

// bench is what all runs share.
type bench struct {
	lab      *lab.Lab
	bin      lab.Binaries
	nginx    string
	upstream *lab.Builtin
	files    *lab.Host // of the plain file server
	minHost  *lab.Host
	digest   string // of the blob
	size     int64
	swarms   int
}

func run(ctx context.Context, o options, rep *report.Report) error {
	nginx, err := lab.Nginx()
	if err = errors.Join(lab.Missing(), err); err != nil {
		return err
	}
	tmp, err := lab.TempDir(o.dir, "bin")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	bin, err := lab.Build(ctx, tmp)
	if err != nil {
		return err
	}
	l, err := lab.New(lab.Options{Rate: -1, Dir: o.dir})
	if err != nil {
		return err
	}
	defer l.Close()
	b := &bench{lab: l, bin: bin, nginx: nginx}
	stop, err := b.prepare(o.size << 20)
	if err != nil {
		return err
	}
	defer stop()
	if o.fill {
		if err := b.fill(ctx); err != nil {
			return err
		}
	}
	var leasts []float64
	results := make([][]moved, len(modes))
	ratios := make([][]float64, len(modes))
	var peerds, nginxes, cached []float64
	for i := range o.runs {
		least, err := b.minimalRun(ctx)
		if err != nil {
			return err
		}
		leasts = append(leasts, least)
		for k, m := range modes {
			s, err := b.newSwarm(ctx, m)
			if err != nil {
				return err
			}
			r, err := s.move(ctx)
			if err == nil && k == 0 {
				var p, n float64
				p, n, err = s.cachedRun(ctx)
				peerds, nginxes, cached = append(peerds, p), append(nginxes, n), append(cached, p/n)
			}
			s.close()
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			results[k] = append(results[k], r)
			ratios[k] = append(ratios[k], (r.in+r.out)/least)
			fmt.Printf("run %d of %d, %s: in %.2f s, out %.2f s\n", i+1, o.runs, m.name, r.seconds[0], r.seconds[1])
		}
	}
	const unit = "CPU-s/GB"
	rep.Rows = append(rep.Rows, report.Row{Scenario: "minimal", What: "receive, SHA-256, write", Unit: unit, Values: leasts})
	for k, m := range modes {
		row := func(what, unit string, f func(moved) float64) {
			rep.Rows = append(rep.Rows, report.Row{Scenario: m.name, What: what, Unit: unit, Values: each(results[k], f)})
		}
		rep.Rows = append(rep.Rows, report.Row{Scenario: m.name, What: "moved / minimal", Unit: "x", Target: report.AtMost(m.target), Values: ratios[k]})
		row("moved", unit, func(r moved) float64 { return r.in + r.out })
		row("of it: received, verified, stored, served once", unit, func(r moved) float64 { return r.in })
		row("of it: sent to a peer once", unit, func(r moved) float64 { return r.out })
		row("heap allocated per byte", "B/B", func(r moved) float64 { return r.allocated })
		row("garbage collections", "", func(r moved) float64 { return r.collections })
		row("requests for pieces", "", func(r moved) float64 { return r.asks })
	}
	rep.Rows = append(rep.Rows,
		report.Row{Scenario: "cached", What: "peerd / nginx", Unit: "x", Target: report.AtMost(1.2), Values: cached},
		report.Row{Scenario: "cached", What: "peerd", Unit: unit, Values: peerds},
		report.Row{Scenario: "cached", What: "nginx", Unit: unit, Values: nginxes})
	return b.profiles(ctx, o, results)
}

func each(rs []moved, f func(moved) float64) []float64 {
	out := make([]float64, len(rs))
	for i, r := range rs {
		out[i] = f(r)
	}
	return out
}

func (b *bench) profiles(ctx context.Context, o options, results [][]moved) error {
	if o.profile == "" {
		return nil
	}
	if err := os.MkdirAll(o.profile, 0o755); err != nil {
		return err
	}
	for k, m := range modes {
		s, err := b.newSwarm(ctx, m)
		if err != nil {
			return err
		}
		r := results[k][0]
		err = s.profiled(ctx, o.profile, time.Duration((r.seconds[0]+r.seconds[1]+1)*float64(time.Second)))
		s.close()
		if err != nil {
			return fmt.Errorf("profile, %s: %w", m.name, err)
		}
	}
	return nil
}

// prepare makes the blob, its upstream and the plain file server.
func (b *bench) prepare(size int64) (stop func(), err error) {
	img, err := lab.NewImage(lab.ImageSpec{Layers: []int64{size}, Seed: 1})
	if err != nil {
		return nil, err
	}
	layer := img.Blobs()[1]
	b.digest, b.size = layer.Digest.String(), layer.Size
	if b.files, err = b.lab.NewHost("files", -1); err != nil {
		return nil, err
	}
	if b.minHost, err = b.lab.NewHost("minimal", -1); err != nil {
		return nil, err
	}
	if b.upstream, err = lab.StartBuiltin(b.files, upstreamName, img, repo, tag); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.files.Dir(), "files")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	content, err := contentFile(b.files.Dir(), b.size)
	if err != nil {
		return nil, err
	}
	if err := os.Link(content, filepath.Join(dir, "blob")); err != nil {
		return nil, err
	}
	return serveFiles(b.files, dir)
}

func (b *bench) blobURL(base string) string { return base + "/v2/" + repo + "/blobs/" + b.digest }

func (b *bench) fetchManifest(ctx context.Context, h *lab.Host, base string) error {
	client := h.HTTPClient()
	defer client.CloseIdleConnections()
	_, err := discard(ctx, client, base+"/v2/"+repo+"/manifests/"+tag)
	return err
}

// fetch reads manifest and blob as a client on the host.
func (b *bench) fetch(ctx context.Context, h *lab.Host, base string) error {
	if err := b.fetchManifest(ctx, h, base); err != nil {
		return err
	}
	client := h.HTTPClient()
	defer client.CloseIdleConnections()
	return b.get(ctx, client, b.blobURL(base))
}

func (b *bench) get(ctx context.Context, client *http.Client, url string) error {
	n, err := discard(ctx, client, url)
	if err == nil && n != b.size {
		err = fmt.Errorf("GET %s: %d bytes, not %d", url, n, b.size)
	}
	return err
}

func discard(ctx context.Context, client *http.Client, url string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	// A buffer of the usual size of a client's; io.Discard's own is 8 KiB.
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
}
