package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

const nginxPort = 8080

// nginxConfig serves files as nginx is set up to serve them fast.
const nginxConfig = `worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx-error.log;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  open_file_cache off;
  server {
    listen 127.0.0.1:%[2]d;
    root %[1]s/files;
    location /v2/ { rewrite ^/v2/.*/blobs/sha256:(.*)$ /$1 break; }
  }
}
`

// cachedPulls compares a peerd that holds everything with an nginx that has the
// same files, both over the loopback of one host.
func (b *bench) cachedPulls(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	c, err := b.cluster(ctx)
	if err != nil {
		return err
	}
	defer c.end()
	h, p := b.hosts[0], c.peerds[0]
	for _, repo := range []string{repository, bigRepo} {
		puller := lab.HTTPPuller{Client: h.HTTPClient(), Mirror: p.Mirror, NS: upstreamName}
		if _, err := puller.Pull(ctx, repo, tag); err != nil {
			return fmt.Errorf("fill the cache: %w", err)
		}
		puller.Client.CloseIdleConnections()
	}
	web, err := b.startNginx(ctx, h)
	if err != nil {
		return err
	}
	servers := []server{
		{"nginx", "http://" + h.Local(nginxPort), web},
		{"peerd", p.Mirror, []int{p.Pid()}},
	}
	stop := b.profileOf(ctx, "peerd-cached", p.Profile)
	defer func() { err = errors.Join(err, stop()) }()
	if err := b.compare(ctx, h, servers, fmt.Sprintf("cached, %d blobs", b.blobs), repository, b.image.Blobs(), b.rounds); err != nil {
		return err
	}
	return b.compare(ctx, h, servers, fmt.Sprintf("cached, %d MiB", b.large/mib), bigRepo, b.big.Blobs()[1:], b.rounds)
}

// startNginx serves the images' blobs from files and returns nginx's processes.
func (b *bench) startNginx(ctx context.Context, h *lab.Host) ([]int, error) {
	dir := h.Dir()
	files := filepath.Join(dir, "files")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return nil, err
	}
	for _, img := range []*lab.Image{b.image, b.big} {
		if err := writeBlobs(files, img); err != nil {
			return nil, fmt.Errorf("write files for nginx: %w", err)
		}
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, dir, nginxPort), 0o644); err != nil {
		return nil, err
	}
	bin, err := lab.Nginx()
	if err != nil {
		return nil, err
	}
	p, err := h.Start(ctx, lab.Command{Name: "nginx", Path: bin, Args: []string{"-c", conf},
		Ready: "http://" + h.Local(nginxPort) + "/" + b.image.Blobs()[0].Digest.Hex})
	if err != nil {
		return nil, err
	}
	return processes(p.Pid())
}

// writeBlobs writes each blob of an image to a file named by its digest.
func writeBlobs(dir string, img *lab.Image) error {
	config, err := img.V1().RawConfigFile()
	if err != nil {
		return err
	}
	blobs := img.Blobs()
	if err := os.WriteFile(filepath.Join(dir, blobs[0].Digest.Hex), config, 0o644); err != nil {
		return err
	}
	layers, err := img.V1().Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, blobs[i+1].Digest.Hex))
		if err != nil {
			return errors.Join(err, r.Close())
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close(), r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// processes are a process and its children.
func processes(pid int) ([]int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	all := []int{pid}
	for rest := string(b); ; {
		var child int
		if n, _ := fmt.Sscanf(rest, "%d", &child); n != 1 {
			return all, nil
		}
		all = append(all, child)
		rest = rest[len(fmt.Sprint(child))+1:]
	}
}

// server is one of the two that are compared.
type server struct {
	name, url string
	pids      []int
}

// compare pulls blobs from each server in turn, three at once.
func (b *bench) compare(ctx context.Context, h *lab.Host, servers []server, scenario, repo string, blobs []v1.Descriptor, rounds int) error {
	var wall, cpu [2][]float64
	for range b.runs {
		for i, s := range servers {
			w, c, err := pullAll(ctx, h, s, repo, blobs, rounds)
			if err != nil {
				return fmt.Errorf("%s from %s: %w", scenario, s.name, err)
			}
			wall[i], cpu[i] = append(wall[i], w.Seconds()), append(cpu[i], c.Seconds())
		}
	}
	bytes := int64(0)
	for _, d := range blobs {
		bytes += d.Size
	}
	ratio := func(v [2][]float64) (r []float64) {
		for i := range v[0] {
			r = append(r, v[1][i]/v[0][i])
		}
		return r
	}
	each := func(v []float64) string {
		return fmt.Sprintf("%.3g", 1e6*report.Percentile(v, 50)/float64(rounds*len(blobs)))
	}
	gb := func(v []float64) string {
		return fmt.Sprintf("%.3g", report.Percentile(v, 50)/float64(int64(rounds)*bytes)*1e9)
	}
	note := func(v [2][]float64, f func([]float64) string, unit string) string {
		return fmt.Sprintf("%s %s, %s %s %s", servers[0].name, f(v[0]), servers[1].name, f(v[1]), unit)
	}
	unit, f := "µs a blob", each
	if len(blobs) == 1 {
		unit, f = "s/GB", gb
	}
	b.rep.Add(os.Stdout,
		report.Row{Scenario: scenario, What: "time, peerd / nginx", Unit: "x", Values: ratio(wall), Note: note(wall, f, unit)},
		report.Row{Scenario: scenario, What: "CPU of the server, peerd / nginx", Unit: "x", Values: ratio(cpu), Note: note(cpu, f, unit)})
	return nil
}

// pullAll gets all blobs rounds times and returns wall time and the server's CPU.
func pullAll(ctx context.Context, h *lab.Host, s server, repo string, blobs []v1.Descriptor, rounds int) (wall, cpu time.Duration, err error) {
	client := h.HTTPClient()
	defer client.CloseIdleConnections()
	before, err := cpuOf(s.pids)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	for range rounds {
		var g errgroup.Group
		g.SetLimit(3)
		for _, d := range blobs {
			g.Go(func() error { return get(ctx, client, s.url, repo, d) })
		}
		if err := g.Wait(); err != nil {
			return 0, 0, err
		}
	}
	wall = time.Since(began)
	after, err := cpuOf(s.pids)
	for i := range after {
		cpu += after[i] - before[i]
	}
	return wall, cpu, err
}

func get(ctx context.Context, client *http.Client, base, repo string, d v1.Descriptor) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v2/"+repo+"/blobs/"+d.Digest.String()+"?ns="+upstreamName, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != d.Size) {
		err = fmt.Errorf("%s: %s, %d of %d bytes", req.URL, resp.Status, n, d.Size)
	}
	return err
}
