package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

// nginxConf serves one file, in one process.
const nginxConf = `daemon off; master_process off; pid nginx.pid; error_log stderr; user root;
events {}
http {
  sendfile on; tcp_nopush on; access_log off; client_body_temp_path tmp; proxy_temp_path tmp;
  fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server { listen 127.0.0.1:%d; location = / { return 200; } location = /blob { alias %s; } }
}
`

// cachedRuns is how many ratios there are; the median counts.
const cachedRuns = 5

// cached: what it costs the seeder to serve a blob that it has, and nginx to
// serve the very same file to the same client.
func (b *bench) cached(ctx context.Context, w *world) error {
	path, err := lab.Nginx()
	if err != nil {
		fmt.Printf("cached is left out: %v\n", err)
		return nil
	}
	img := w.up.AddImage(repository, "v1", int(b.size))
	d := img.Layers[0]
	if err := w.blob(ctx, d, func(int64) error { return nil }); err != nil {
		return err
	}
	file, err := w.content(ctx, d)
	if err != nil {
		return err
	}
	nginx, base, err := w.startNginx(ctx, path, file)
	if err != nil {
		return err
	}
	defer func() {
		_ = nginx.Process.Kill()
		_ = nginx.Wait() // it was killed
	}()
	servers := []struct {
		pid int
		url string
	}{{nginx.Process.Pid, base + "/blob"}, {w.cmd.Process.Pid, w.blobURL(d)}}
	ratio := report.Row{Scenario: "cached", What: "CPU of a cached blob, seeder / nginx with sendfile", Unit: "x", Target: report.AtMost(1.2)}
	var costs [2]report.Row
	for i, name := range []string{"nginx", "seeder"} {
		costs[i] = report.Row{Scenario: "cached", What: "CPU of a cached blob, " + name, Unit: "CPU-s/GiB"}
	}
	gets := max(b.gets/cachedRuns, 1)
	for range cachedRuns {
		var took [2]time.Duration
		for range gets { // in turns: what else the machine does strikes both
			for i, s := range servers {
				cpu, err := w.served(ctx, s.pid, s.url, b.size)
				if err != nil {
					return err
				}
				took[i] += cpu
			}
		}
		for i := range costs {
			costs[i].Values = append(costs[i].Values, took[i].Seconds()/float64(int64(gets)*b.size)*(1<<30))
		}
		ratio.Values = append(ratio.Values, took[1].Seconds()/took[0].Seconds())
	}
	b.rep.Add(os.Stdout, ratio, costs[0], costs[1])
	return nil
}

// served is the processor time of a process in which a client reads url once.
func (w *world) served(ctx context.Context, pid int, url string, size int64) (time.Duration, error) {
	before, err := proc.CPU(pid)
	if err != nil {
		return 0, err
	}
	resp, err := w.get(ctx, url, "")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
	if err != nil {
		return 0, fmt.Errorf("GET %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK || n != size {
		return 0, fmt.Errorf("GET %s: %s, %d of %d bytes", url, resp.Status, n, size)
	}
	after, err := proc.CPU(pid)
	return after - before, err
}

// content waits until a blob is complete and names its file, as docs/store.md has it.
func (w *world) content(ctx context.Context, d digest.Digest) (string, error) {
	hex := d.Encoded()
	file := filepath.Join(w.dir, "data", "store", "blobs", string(d.Algorithm()), hex[:2], hex, "data")
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := lab.Eventually(ctx, func() error { _, err := os.Stat(file); return err })
	return file, err
}

// startNginx serves the file at /blob of the URL that is returned.
func (w *world) startNginx(ctx context.Context, path, file string) (*exec.Cmd, string, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, "", err
	}
	conf := filepath.Join(w.dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, ports[0], file), 0o600); err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(ctx, path, "-p", w.dir, "-e", "stderr", "-c", conf)
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	ready, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = lab.Eventually(ready, func() error {
		resp, err := w.get(ready, base+"/", "")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return nil, "", fmt.Errorf("nginx does not start: %w", err)
	}
	return cmd, base, nil
}
