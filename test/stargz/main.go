// Command stargz reads eStargz layers through a mirror with the code of
// stargz-snapshotter itself (its fs/remote), and makes such layers. It is a
// module of its own, so that what it depends on stays out of Samara's.
//
//	stargz make < layer.tar > layer.esgz           prints the TOC's digest on standard error
//	stargz read  MIRROR REFERENCE DIGEST SIZE      reads "OFFSET LENGTH" lines, prints a JSON line for each
//	stargz files MIRROR REFERENCE DIGEST SIZE TOC  reads every file of the layer, prints "NAME SHA256"
//
// MIRROR is HOST:PORT. Each is exercised by test/lazy.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/stargz-snapshotter/cache"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/remote"
	rhttp "github.com/hashicorp/go-retryablehttp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "stargz:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "make":
		return makeLayer(in, out)
	case len(args) == 5 && args[0] == "read":
		b, err := open(args[1:])
		if err != nil {
			return err
		}
		defer b.Close()
		return read(b, in, out)
	case len(args) == 6 && args[0] == "files":
		b, err := open(args[1:5])
		if err != nil {
			return err
		}
		defer b.Close()
		return files(b, digest.Digest(args[5]), out)
	}
	return errors.New("want make; read MIRROR REFERENCE DIGEST SIZE; or files MIRROR REFERENCE DIGEST SIZE TOC")
}

// makeLayer turns a tar into an eStargz layer.
func makeLayer(in io.Reader, out io.Writer) error {
	tar, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	layer, err := estargz.Build(io.NewSectionReader(bytes.NewReader(tar), 0, int64(len(tar))))
	if err != nil {
		return err
	}
	defer layer.Close()
	if _, err := io.Copy(out, layer); err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stderr, layer.TOCDigest())
	return err
}

// open mounts a layer as stargz-snapshotter does: a probe, its size, and from
// then on ranges. The client is the snapshotter's, with its timeouts.
func open(args []string) (remote.Blob, error) {
	spec, err := reference.Parse(args[1])
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return nil, err
	}
	client := rhttp.NewClient()
	client.Logger = nil
	client.HTTPClient.Timeout = 30 * time.Second
	hosts := func(reference.Spec) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{{
			Client: &http.Client{Transport: &rhttp.RoundTripper{Client: client}},
			Host:   args[0], Scheme: "http", Path: "/v2", Capabilities: docker.HostCapabilityPull,
		}}, nil
	}
	desc := ocispec.Descriptor{Digest: digest.Digest(args[2]), Size: size}
	b, err := remote.NewResolver(config.BlobConfig{}, nil).Resolve(context.Background(), hosts, spec, desc, cache.NewMemoryCache())
	if err != nil {
		return nil, err
	}
	if b.Size() != size {
		return nil, fmt.Errorf("the mirror says %d bytes, not %d", b.Size(), size)
	}
	return b, nil
}

// Read is what one range took.
type Read struct {
	Offset, Length int64
	Seconds        float64
	SHA256         string
	Error          string `json:",omitempty"`
}

func read(b remote.Blob, in io.Reader, out io.Writer) error {
	lines, enc := bufio.NewScanner(in), json.NewEncoder(out)
	for lines.Scan() {
		var r Read
		if _, err := fmt.Sscan(lines.Text(), &r.Offset, &r.Length); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		p := make([]byte, r.Length)
		began := time.Now()
		n, err := b.ReadAt(p, r.Offset)
		r.Seconds = time.Since(began).Seconds()
		r.SHA256 = fmt.Sprintf("%x", sha256.Sum256(p[:n]))
		if err != nil && !errors.Is(err, io.EOF) {
			r.Error = err.Error()
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

// files reads the layer as a mounted one is read: its footer, its table of
// contents, then chunk after chunk, each verified.
func files(b remote.Blob, toc digest.Digest, out io.Writer) error {
	r, err := estargz.Open(io.NewSectionReader(readerAt{b}, 0, b.Size()))
	if err != nil {
		return err
	}
	verify, err := r.VerifyTOC(toc)
	if err != nil {
		return err
	}
	root, _ := r.Lookup("")
	return walk(r, root, func(name string, e *estargz.TOCEntry) error {
		content, err := r.OpenFile(name)
		if err != nil {
			return err
		}
		h := sha256.New()
		for off := int64(0); off < e.Size; {
			c, ok := r.ChunkEntryForOffset(name, off)
			if !ok {
				return fmt.Errorf("%s: no chunk at %d", name, off)
			}
			n := c.ChunkSize
			if n == 0 {
				n = e.Size - off
			}
			p := make([]byte, n)
			if _, err := content.ReadAt(p, off); err != nil {
				return fmt.Errorf("%s at %d: %w", name, off, err)
			}
			v, err := verify.Verifier(c)
			if err != nil {
				return err
			}
			if v.Write(p); !v.Verified() {
				return fmt.Errorf("%s: the chunk at %d is not what the table of contents says", name, off)
			}
			h.Write(p)
			off += n
		}
		_, err = fmt.Fprintf(out, "%s %x\n", name, h.Sum(nil))
		return err
	})
}

// walk calls f for each regular file below dir, by name.
func walk(r *estargz.Reader, dir *estargz.TOCEntry, f func(string, *estargz.TOCEntry) error) (err error) {
	var entries []*estargz.TOCEntry
	dir.ForeachChild(func(base string, e *estargz.TOCEntry) bool {
		if base != estargz.PrefetchLandmark && base != estargz.NoPrefetchLandmark {
			entries = append(entries, e)
		}
		return true
	})
	slices.SortFunc(entries, func(a, b *estargz.TOCEntry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		switch e.Type {
		case "dir":
			err = walk(r, e, f)
		case "reg":
			err = f(e.Name, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readerAt is a remote blob as an io.ReaderAt.
type readerAt struct{ b remote.Blob }

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r.b.ReadAt(p, off) }
