package lab

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// Builtin is a read-only registry in this process that has one image: what stands
// in for docker-registry where that is not installed.
type Builtin struct {
	Host *Host
	Name string
	URL  string

	sent atomic.Int64
}

// StartBuiltin serves img as repo:tag on the host until the lab closes.
func StartBuiltin(h *Host, upstreamName string, img *Image, repo, tag string) (*Builtin, error) {
	dir := filepath.Join(h.dir, "blobs")
	if err := writeBlobs(dir, img); err != nil {
		return nil, fmt.Errorf("start built-in upstream: %w", err)
	}
	manifest, err := img.v1.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("start built-in upstream: %w", err)
	}
	mediaType, err := img.v1.MediaType()
	if err != nil {
		return nil, fmt.Errorf("start built-in upstream: %w", err)
	}
	b := &Builtin{Host: h, Name: upstreamName, URL: "http://" + h.Addr(registryPort)}
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	mux.HandleFunc("/v2/"+repo+"/manifests/{ref}", func(w http.ResponseWriter, r *http.Request) {
		if ref := r.PathValue("ref"); ref != tag && ref != img.Digest() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", string(mediaType))
		w.Header().Set("Docker-Content-Digest", img.Digest())
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(manifest)))
	})
	mux.HandleFunc("/v2/"+repo+"/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(filepath.Join(dir, filepath.Base(r.PathValue("digest"))))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", r.PathValue("digest"))
		http.ServeContent(&countingWriter{w, &b.sent}, r, "", time.Time{}, f)
	})
	ln, err := h.Listen(registryPort)
	if err != nil {
		return nil, fmt.Errorf("start built-in upstream: %w", err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	h.lab.onClose(func() error { err := srv.Close(); <-done; return err })
	return b, nil
}

// Sent is how many bytes of blobs have left.
func (b *Builtin) Sent() int64 { return b.sent.Load() }

func writeBlobs(dir string, img *Image) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	layers, err := img.v1.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			return err
		}
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, d.String()))
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	cfg, err := img.v1.RawConfigFile()
	if err != nil {
		return err
	}
	name, err := img.v1.ConfigName()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name.String()), cfg, 0o644)
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n.Add(int64(n))
	return n, err
}
