package scenario

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"github.com/samara-p2p/samara/test/lab"
)

// What happens when the upstream misbehaves, and what it is spared.
var (
	upstreamCorrupt = Scenario{
		Name: "upstream-corrupt", Doc: "the upstream serves a layer that does not match its digest",
		Needs: []Need{lab.Missing},
		run:   func(ctx context.Context, e *Env) error { return e.upstreamCorrupt(ctx) },
	}
	upstreamCuts = Scenario{
		Name: "upstream-cuts", Doc: "the upstream cuts every connection after 30% of the answer",
		Needs: []Need{lab.Missing},
		run:   func(ctx context.Context, e *Env) error { return e.upstreamCuts(ctx) },
	}
	oneFetch = Scenario{
		Name: "one-fetch", Doc: "64 clients pull the same cold blob from the seeder",
		Needs: []Need{lab.Missing},
		run:   func(ctx context.Context, e *Env) error { return e.oneFetch(ctx) },
	}
	coldRange = Scenario{
		Name: "cold-range", Doc: "a client asks for the end of a cold blob behind a slow upstream",
		Needs: []Need{lab.Missing},
		run:   func(ctx context.Context, e *Env) error { return e.coldRange(ctx) },
	}
)

func (e *Env) upstreamCorrupt(ctx context.Context) error {
	up := upstreamtest.New()
	layers := []int64{6 * mib, 3 * mib, 300 * kib}
	c, err := e.newCluster(ctx, clusterSpec{hosts: 2, layers: layers, faulty: up})
	if err != nil {
		return err
	}
	for _, victim := range []struct {
		what string
		blob blobInfo
	}{{"large layer", c.blobs[1]}, {"small layer", c.blobs[3]}} {
		up.ClearFaults()
		up.SetFault(victim.blob.digest, upstreamtest.Fault{Corrupt: true})
		for _, from := range []struct{ who, base string }{{"peerd", c.peers[0].Mirror}, {"the seeder", c.seeder.URL}} {
			short, cancel := context.WithTimeout(ctx, 30*time.Second)
			what := fmt.Sprintf("a corrupt %s asked of %s", victim.what, from.who)
			err := wrongBlob(short, c.peers[0].Host, from.base, victim.blob)
			cancel()
			if errors.Is(err, errNoError) || errors.Is(err, lab.ErrWrongBytes) || errors.Is(err, context.DeadlineExceeded) {
				e.row(what, "an error, not all the bytes, within 30 s", false, "%v", err)
			} else {
				e.row(what, "an error, not all the bytes, within 30 s", true, "%.160v", err)
			}
		}
	}
	named := logHas(c.seeder.Process, "digest") && logHas(c.seeder.Process, c.blobs[1].digest)
	e.row("the seeder's log names the blob that does not match", "yes", named, "%v", named)

	up.ClearFaults()
	// A mirror that has failed a blob answers 404 for a while (contract 14), so the
	// clients may go to the upstream for it.
	pl := c.pull(ctx, tag, c.httpPullers(c.peers, true))
	e.expect("all pulls finish once the upstream has healed", "yes", pl.wait(nil))
	healed, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err = lab.Eventually(healed, func() error {
		if err := wrongBlob(healed, c.peers[0].Host, c.seeder.URL, c.blobs[1]); !errors.Is(err, errNoError) {
			return err
		}
		return nil
	})
	e.expect("the seeder serves the blob again within 15 s of that", "yes", err)
	return nil
}

var errNoError = errors.New("no error")

// wrongBlob asks for a blob that cannot be had and returns how that shows:
// a status, or a body that ends early.
func wrongBlob(ctx context.Context, h *lab.Host, base string, b blobInfo) error {
	resp, err := get(ctx, h, base+"/v2/"+repo+"/blobs/"+b.digest+"?ns="+upstreamName, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 2048))
		return fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSpace(string(body)))
	}
	sum := sha256.New()
	n, err := io.Copy(sum, resp.Body)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("status %d, then cut short after %d of %d bytes", resp.StatusCode, n, b.size)
	case err != nil:
		return fmt.Errorf("after %d of %d bytes: %w", n, b.size, err)
	case fmt.Sprintf("sha256:%x", sum.Sum(nil)) != b.digest:
		return fmt.Errorf("all %d bytes, but: %w", n, lab.ErrWrongBytes)
	}
	return errNoError
}

func (e *Env) upstreamCuts(ctx context.Context) error {
	up := upstreamtest.New()
	c, err := e.newCluster(ctx, clusterSpec{hosts: 2, layers: []int64{24 * mib, 3 * mib, 300 * kib}, faulty: up})
	if err != nil {
		return err
	}
	up.SetFault("blobs", upstreamtest.Fault{Cut: 0.3})
	pl := c.pull(ctx, tag, c.httpPullers(c.peers, false))
	e.expect("all pulls finish by resuming", "yes", pl.wait(nil))
	e.info("what it took", "%d blob requests, %.3f images sent, %.1f s",
		up.Count(http.MethodGet, "/blobs/"), images(up.TotalBytes(), c.size), pl.took.Seconds())
	return nil
}

func (e *Env) oneFetch(ctx context.Context) error {
	const clients = 64
	size := e.Size.Layers[0] / 5
	up := upstreamtest.New()
	c, err := e.newCluster(ctx, clusterSpec{hosts: 1, layers: []int64{size}, faulty: up, noWait: true})
	if err != nil {
		return err
	}
	for _, h := range c.lab.Hosts() { // the link is not the point here
		if err := h.SetRate(-1); err != nil {
			return err
		}
	}
	// A rate of the upstream's own keeps the blob cold while the clients arrive.
	up.SetFault("blobs", upstreamtest.Fault{Rate: int(size / 3)})
	blob := c.blobs[1]
	var g errgroup.Group
	for range clients {
		g.Go(func() error {
			err := wrongBlob(ctx, c.peers[0].Host, c.seeder.URL, blob)
			if errors.Is(err, errNoError) {
				return nil
			}
			return err
		})
	}
	e.expect(fmt.Sprintf("%d clients get the right bytes", clients), "yes", g.Wait())
	sent := up.BytesServed(digestOf(blob))
	e.row("bytes out of the upstream / blob", "1 GET's worth", sent == blob.size, "%.4f in %d requests",
		images(sent, blob.size), up.Count(http.MethodGet, blob.digest))
	return nil
}

func (e *Env) coldRange(ctx context.Context) error {
	up := upstreamtest.New()
	const size = 64 * mib
	c, err := e.newCluster(ctx, clusterSpec{hosts: 1, layers: []int64{size, size}, faulty: up})
	if err != nil {
		return err
	}
	// 4 MiB/s: the whole blob would take 16 s.
	up.SetFault("blobs", upstreamtest.Fault{Rate: 4 * mib})
	peer := c.peers[0]
	// The mirror knows sizes and sources from the manifest.
	if _, err := fetch(ctx, peer.Host, peer.Mirror+"/v2/"+repo+"/manifests/"+tag+"?ns="+upstreamName); err != nil {
		return err
	}
	for i, from := range []struct{ who, base string }{{"the seeder", c.seeder.URL}, {"peerd", peer.Mirror}} {
		blob := c.blobs[1+i]
		first := int64(size*3/4) + 12345
		start := time.Now()
		err := rangeOf(ctx, peer.Host, from.base, up, blob, first, 100_000)
		took := time.Since(start)
		e.expect(fmt.Sprintf("%s answers 206 with the right bytes of a cold range", from.who), "yes", err)
		// 12 s is when a daemon that reads in order would get there.
		e.row(fmt.Sprintf("%s answers a cold range", from.who), "<= 2 s, not after all before it", took <= 6*time.Second, "%.2f s", took.Seconds())
	}
	return nil
}

// rangeOf asks for n bytes from first and compares them.
func rangeOf(ctx context.Context, h *lab.Host, base string, up *upstreamtest.Server, b blobInfo, first, n int64) error {
	resp, err := get(ctx, h, base+"/v2/"+repo+"/blobs/"+b.digest+"?ns="+upstreamName, fmt.Sprintf("bytes=%d-%d", first, first+n-1))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, n+1))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	if want := fmt.Sprintf("bytes %d-%d/%d", first, first+n-1, b.size); resp.Header.Get("Content-Range") != want {
		return fmt.Errorf("Content-Range %q, want %q", resp.Header.Get("Content-Range"), want)
	}
	if string(body) != string(up.Blob(digestOf(b))[first:first+n]) {
		return lab.ErrWrongBytes
	}
	return nil
}
