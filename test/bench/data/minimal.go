package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// filesPort is where the plain file server listens.
const filesPort = 8080

// minimalArg has this program be the minimal one: data minimal URL FILE SHA256.
const minimalArg = "minimal"

// minimal fetches url into a file and hashes it on the way, with one buffer.
func minimal(url, file, sum string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	h := sha256.New()
	buf := make([]byte, 256<<10)
	// The wrapper keeps io from calling the file's ReadFrom: one read serves both.
	if _, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(h, f)}, resp.Body, buf); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("GET %s: digest %s, not %s", url, got, sum)
	}
	return f.Close()
}

// serveFiles serves the directory dir on the host until the lab's end.
func serveFiles(h *lab.Host, dir string) (stop func(), err error) {
	ln, err := h.Listen(filesPort)
	if err != nil {
		return nil, fmt.Errorf("file server: %w", err)
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	return func() { _ = srv.Close(); <-done }, nil
}

// minimalRun measures the minimal program on a host of its own.
func (b *bench) minimalRun(ctx context.Context) (float64, error) {
	file := filepath.Join(b.minHost.Dir(), "out")
	defer os.Remove(file)
	url := "http://" + b.files.Addr(filesPort) + "/blob"
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	if err := b.heat(); err != nil {
		return 0, err
	}
	p, err := b.minHost.Start(ctx, lab.Command{Name: "minimal", Path: self,
		Args: []string{minimalArg, url, file, strings.TrimPrefix(b.digest, "sha256:")}})
	if err != nil {
		return 0, err
	}
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		p.Kill()
		return 0, fmt.Errorf("the minimal program failed (%d, %w): %s", code, err, p.Tail(3))
	}
	return perGB(p.CPU(), b.size), nil
}
