package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

const (
	upName     = "up.test"
	repository = "lab/app"
)

// world is an upstream and a seeder in front of it.
type world struct {
	up     *upstreamtest.Server
	dir    string
	binary string
	args   []string
	cmd    *exec.Cmd
	url    string // of the registry API
	admin  string
	client *http.Client
}

func newWorld(ctx context.Context, binary string) (*world, error) {
	w := &world{up: upstreamtest.New(), binary: binary, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}}
	var err error
	if w.dir, err = os.MkdirTemp("", "samara-proxy-data-"); err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	w.url, w.admin = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[3])
	w.args = []string{
		"serve", "--data", filepath.Join(w.dir, "data"), "--open-swarm", "--log-level", "warn", "--tag-ttl", "0s",
		"--listen", fmt.Sprintf("127.0.0.1:%d", ports[0]), "--p2p-listen", fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", ports[1]),
		"--pieces-listen", fmt.Sprintf("127.0.0.1:%d", ports[2]), "--admin-listen", fmt.Sprintf("127.0.0.1:%d", ports[3]),
		"--upstream", upName + "=" + w.up.URL(), "--default-upstream", upName,
	}
	if _, err := w.start(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// freePorts are ports of loopback that nobody listens on.
func freePorts(n int) ([]int, error) {
	var open []net.Listener
	defer func() {
		for _, ln := range open {
			_ = ln.Close() // nobody has connected
		}
	}()
	ports := make([]int, n)
	for i := range ports {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		open = append(open, ln)
		ports[i] = ln.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// start starts the seeder and tells how long it took to get ready.
func (w *world) start(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(filepath.Join(w.dir, "seeder.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	w.cmd = exec.Command(w.binary, w.args...) // ends by stop, with a grace
	w.cmd.Stdout, w.cmd.Stderr = log, log
	began := time.Now()
	if err := w.cmd.Start(); err != nil {
		return 0, err
	}
	for {
		if resp, err := w.get(ctx, w.admin+"/readyz", ""); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(began), nil
			}
		}
		if time.Since(began) > 30*time.Second {
			return 0, fmt.Errorf("the seeder does not get ready: %s", w.log())
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// stop ends the seeder.
func (w *world) stop() {
	if w.cmd == nil || w.cmd.Process == nil {
		return
	}
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { _ = w.cmd.Process.Kill() })
	defer kill.Stop()
	_ = w.cmd.Wait() // how it ends is not what is measured
	w.cmd = nil
}

func (w *world) close() {
	w.up.Close()
	w.stop()
	_ = os.RemoveAll(w.dir)
}

// log is the end of what the seeder has said.
func (w *world) log() string {
	b, err := os.ReadFile(filepath.Join(w.dir, "seeder.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *world) get(ctx context.Context, url, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	return w.client.Do(req)
}

func (w *world) blobURL(d digest.Digest) string {
	return w.url + "/v2/" + repository + "/blobs/" + d.String()
}

// tag gets the manifest of a tag and tells how long that took.
func (w *world) tag(ctx context.Context, tag string) (time.Duration, error) {
	began := time.Now()
	resp, err := w.get(ctx, w.url+"/v2/"+repository+"/manifests/"+tag, "")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("tag %s: %s: %s", tag, resp.Status, body)
	}
	return time.Since(began), err
}

// blob reads the whole blob and compares it. on is told of the bytes read so
// far; an error of its ends the reading.
func (w *world) blob(ctx context.Context, d digest.Digest, on func(n int64) error) error {
	resp, err := w.get(ctx, w.blobURL(d), "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("blob: %s", resp.Status)
	}
	want, off, buf := w.up.Blob(d), int64(0), make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if off+int64(n) > int64(len(want)) || !bytes.Equal(buf[:n], want[off:off+int64(n)]) {
			return fmt.Errorf("wrong bytes at %d", off)
		}
		off += int64(n)
		if n > 0 {
			if err := on(off); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && off == int64(len(want)):
			return nil
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", off, len(want), err)
		}
	}
}

// sent is what the upstream has sent of a blob, in blobs.
func (w *world) sent(d digest.Digest) float64 {
	return float64(w.up.BytesServed(d)) / float64(len(w.up.Blob(d)))
}

// status is the seeder's status document.
func (w *world) status(ctx context.Context) (st status.Status, err error) {
	resp, err := w.get(ctx, w.admin+"/v1/status", "")
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	return st, json.NewDecoder(io.LimitReader(resp.Body, 8<<20)).Decode(&st)
}
