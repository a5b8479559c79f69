package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// HTTPPuller pulls as containerd does (CLIENTS.md sections 1 and 2) and throws
// the verified bytes away: HEAD and GET of the manifest, then config and layers,
// three at once; any answer above 299 moves on to the upstream; a body that ends
// early is resumed by Range, at the mirror first; anything else wrong in the
// middle of a body is final.
type HTTPPuller struct {
	Client   *http.Client // e.g. Host.HTTPClient
	Mirror   string       // http://127.0.0.1:5050
	NS       string       // sent as ?ns= to the mirror; "" = not sent
	Upstream string       // URL to fall through to; "" = the mirror alone
	Parallel int          // blobs at once; default 3
	OnBytes  func(n int)  // called for each chunk of a body; must be safe for concurrent use

	received atomic.Int64
}

// maxResumes bounds resumes without progress, as containerd's httpReadSeeker does.
const maxResumes = 3

const acceptManifests = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
	"application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"

// Received is how many blob bytes have arrived so far.
func (p *HTTPPuller) Received() int64 { return p.received.Load() }

// Pull implements Puller.
func (p *HTTPPuller) Pull(ctx context.Context, repo, ref string) (*PullReport, error) {
	rep := &PullReport{Start: time.Now()}
	defer func() { rep.Total = time.Since(rep.Start) }()
	m, digest, err := p.manifest(ctx, repo, ref)
	if err != nil {
		return rep, fmt.Errorf("pull %s:%s: manifest: %w", repo, ref, err)
	}
	rep.Manifest, rep.Digest = time.Since(rep.Start), digest
	descs := append([]v1.Descriptor{m.Config}, m.Layers...)
	rep.Blobs = make([]BlobReport, len(descs))
	g, gctx := errgroup.WithContext(ctx)
	parallel := p.Parallel
	if parallel == 0 {
		parallel = 3
	}
	g.SetLimit(parallel)
	for i, d := range descs {
		g.Go(func() error {
			rep.Blobs[i] = BlobReport{Digest: d.Digest.String(), Size: d.Size}
			if err := p.blob(gctx, repo, &rep.Blobs[i]); err != nil {
				return fmt.Errorf("pull %s:%s: blob %s: %w", repo, ref, d.Digest, err)
			}
			return nil
		})
	}
	return rep, g.Wait()
}

// manifest resolves ref to an image manifest, through an index if there is one.
func (p *HTTPPuller) manifest(ctx context.Context, repo, ref string) (*v1.Manifest, string, error) {
	// containerd resolves with HEAD first; what it learns is asked for by digest.
	want := ref
	if !strings.HasPrefix(ref, "sha256:") {
		resp, err := p.ask(ctx, http.MethodHead, repo, "manifests/"+ref, 0)
		if err != nil {
			return nil, "", err
		}
		resp.Body.Close()
		want = resp.Header.Get("Docker-Content-Digest")
		if want == "" {
			return nil, "", fmt.Errorf("HEAD %s: no Docker-Content-Digest", resp.Request.URL)
		}
	}
	for range 2 {
		body, mediaType, err := p.manifestByDigest(ctx, repo, want)
		if err != nil {
			return nil, "", err
		}
		if strings.Contains(mediaType, "index") || strings.Contains(mediaType, "manifest.list") {
			var idx v1.IndexManifest
			if err := json.Unmarshal(body, &idx); err != nil {
				return nil, "", fmt.Errorf("parse index: %w", err)
			}
			for _, d := range idx.Manifests {
				if d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == "amd64" {
					want = d.Digest.String()
					break
				}
			}
			continue
		}
		m, err := v1.ParseManifest(bytes.NewReader(body))
		if err != nil {
			return nil, "", fmt.Errorf("parse manifest %s (%s): %w", want, mediaType, err)
		}
		return m, want, nil
	}
	return nil, "", errors.New("no manifest for linux/amd64")
}

func (p *HTTPPuller) manifestByDigest(ctx context.Context, repo, digest string) ([]byte, string, error) {
	resp, err := p.ask(ctx, http.MethodGet, repo, "manifests/"+digest, 0)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, "", fmt.Errorf("read manifest: %w", err)
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(body)); got != digest {
		return nil, "", fmt.Errorf("manifest %s: got %s: %w", digest, got, ErrWrongBytes)
	}
	return body, resp.Header.Get("Content-Type"), nil
}

// ask sends one request, to the mirror and then to the upstream. The answer is
// 2xx; the caller closes its body.
func (p *HTTPPuller) ask(ctx context.Context, method, repo, what string, off int64) (*http.Response, error) {
	var first error
	for _, base := range []string{p.Mirror, p.Upstream} {
		if base == "" {
			continue
		}
		u := base + "/v2/" + repo + "/" + what
		if base == p.Mirror && p.NS != "" {
			u += "?ns=" + url.QueryEscape(p.NS)
		}
		resp, err := p.askOne(ctx, method, u, off)
		if err == nil {
			return resp, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

func (p *HTTPPuller) askOne(ctx context.Context, method, u string, off int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "containerd/1.6.20 samara-lab")
	if strings.Contains(u, "/manifests/") {
		req.Header.Set("Accept", acceptManifests)
	}
	if off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode > 299 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		resp.Body.Close()
		return nil, &StatusError{URL: u, Status: resp.StatusCode, Body: string(body)}
	}
	if off > 0 && resp.StatusCode == http.StatusOK {
		// The whole body again: containerd reads up to the offset and goes on.
		if _, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("skip to byte %d: %w", off, err)
		}
	} else if off > 0 {
		want := fmt.Sprintf("bytes %d-", off)
		if cr := resp.Header.Get("Content-Range"); !strings.HasPrefix(cr, want) {
			resp.Body.Close()
			return nil, fmt.Errorf("GET %s from %d: Content-Range %q", u, off, cr)
		}
	}
	return resp, nil
}

// blob fetches and verifies one blob.
func (p *HTTPPuller) blob(ctx context.Context, repo string, r *BlobReport) error {
	start := time.Now()
	h := sha256.New()
	buf := make([]byte, 128<<10)
	var off int64
	for stuck := 0; off < r.Size; {
		n, err := p.part(ctx, repo, r, off, h, buf, start)
		off += n
		if err == nil {
			break
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || ctx.Err() != nil {
			return err
		}
		if n > 0 {
			stuck = 0
		}
		if stuck++; stuck > maxResumes {
			return fmt.Errorf("%w: byte %d of %d", ErrCut, off, r.Size)
		}
		r.Resumes++
	}
	r.Total = time.Since(start)
	if got := fmt.Sprintf("sha256:%x", h.Sum(nil)); got != r.Digest || off != r.Size {
		return fmt.Errorf("%d of %d bytes, got %s: %w", off, r.Size, got, ErrWrongBytes)
	}
	return nil
}

// part reads one answer to its end or to where it breaks.
func (p *HTTPPuller) part(ctx context.Context, repo string, r *BlobReport, off int64, w io.Writer, buf []byte, start time.Time) (int64, error) {
	resp, err := p.ask(ctx, http.MethodGet, repo, "blobs/"+r.Digest, off)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if off == 0 && resp.ContentLength >= 0 && resp.ContentLength != r.Size {
		return 0, fmt.Errorf("Content-Length %d, the manifest says %d: %w", resp.ContentLength, r.Size, ErrWrongBytes)
	}
	from := &r.FromMirror
	if p.Upstream != "" && strings.HasPrefix(resp.Request.URL.String(), p.Upstream) {
		from = &r.FromUpstream
	}
	var total int64
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if r.FirstByte == 0 {
				r.FirstByte = time.Since(start)
			}
			_, _ = w.Write(buf[:n])
			total += int64(n)
			*from += int64(n)
			p.received.Add(int64(n))
			if p.OnBytes != nil {
				p.OnBytes(n)
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
