package lazy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Range is a part of a blob, in bytes.
type Range struct{ Offset, Length int64 }

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.Offset, r.Offset+r.Length-1) }

// Client reads blobs of Repository from a registry or mirror.
type Client struct {
	HTTP *http.Client
	URL  string // http://HOST:PORT
}

// Snapshotter is how a kind of client asks for ranges, as read in its source.
type Snapshotter struct {
	Name string
	// Mount is what it asks when it mounts a layer.
	Mount func(context.Context, *Client, *Blob) error
	// Ranges are several at a time for those that ask so.
	Ranges int
	// Patience is how long it waits: to the headers (Headers), or for the whole request.
	Patience time.Duration
	Headers  bool
	Largest  int64 // range that it asks for
}

// Snapshotters are the clients whose requests are replayed.
var Snapshotters = []Snapshotter{
	// stargz-snapshotter fs/remote: a probe that resolves redirects, HEAD for the size, units of 50,000 bytes.
	{Name: "stargz", Mount: probeAndHead, Ranges: 3, Patience: 30 * time.Second, Largest: 1_000_000},
	// nydusd storage/src/backend/registry.rs: HEAD for the size, merged reads of up to 1 MiB.
	{Name: "nydusd", Mount: head, Ranges: 1, Patience: 5 * time.Second, Largest: 1 << 20},
	// soci-snapshotter fs/remote: as stargz, spans of 4 MiB, 3 s to the headers.
	{Name: "soci", Mount: probeAndHead, Ranges: 1, Patience: 3 * time.Second, Headers: true, Largest: 4 << 20},
}

func head(ctx context.Context, c *Client, b *Blob) error {
	resp, err := c.do(ctx, http.MethodHead, b, "")
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != b.Size {
		return fmt.Errorf("HEAD: %s, %d bytes", resp.Status, resp.ContentLength)
	}
	return nil
}

func probeAndHead(ctx context.Context, c *Client, b *Blob) error {
	if err := c.Read(ctx, b, Range{0, 2}); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return head(ctx, c, b)
}

func (c *Client) do(ctx context.Context, method string, b *Blob, ranges string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+"/v2/"+Repository+"/blobs/"+b.Digest.String(), nil)
	if err != nil {
		return nil, err
	}
	if ranges != "" {
		req.Header.Set("Range", "bytes="+ranges)
	}
	req.Header.Set("Accept-Encoding", "identity")
	return c.HTTP.Do(req)
}

// Read asks for ranges in one request and checks what comes.
func (c *Client) Read(ctx context.Context, b *Blob, ranges ...Range) error {
	resp, err := c.do(ctx, http.MethodGet, b, join(ranges))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return check(resp, b, ranges)
}

func join(ranges []Range) string {
	var s []string
	for _, r := range ranges {
		s = append(s, r.String())
	}
	return strings.Join(s, ",")
}

func check(resp *http.Response, b *Blob, ranges []Range) error {
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("range %s: %s", join(ranges), resp.Status)
	}
	if len(ranges) == 1 {
		return checkPart(resp.Body, resp.Header.Get("Content-Range"), b, ranges[0])
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		return fmt.Errorf("ranges %s: Content-Type %q", join(ranges), resp.Header.Get("Content-Type"))
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	for _, r := range ranges {
		p, err := parts.NextPart()
		if err != nil {
			return fmt.Errorf("range %s: %w", r, err)
		}
		if err := checkPart(p, p.Header.Get("Content-Range"), b, r); err != nil {
			return err
		}
	}
	return nil
}

func checkPart(body io.Reader, header string, b *Blob, r Range) error {
	if want := fmt.Sprintf("bytes %s/%d", r, b.Size); header != want {
		return fmt.Errorf("Content-Range %q, want %q", header, want)
	}
	p, err := io.ReadAll(io.LimitReader(body, r.Length+1))
	if err != nil {
		return fmt.Errorf("range %s: %w", r, err)
	}
	if int64(len(p)) != r.Length {
		return fmt.Errorf("range %s: %d bytes", r, len(p))
	}
	return b.Check(p, r.Offset)
}

// Timed is what one request took: to the headers and in all.
type Timed struct{ Headers, Total time.Duration }

// Time reads ranges, as Read does, with a clock.
func (c *Client) Time(ctx context.Context, b *Blob, ranges ...Range) (t Timed, err error) {
	began := time.Now()
	resp, err := c.do(ctx, http.MethodGet, b, join(ranges))
	if err != nil {
		return t, err
	}
	defer resp.Body.Close()
	t.Headers = time.Since(began)
	err = check(resp, b, ranges)
	t.Total = time.Since(began)
	return t, err
}

// Reach is how many seconds it takes until a range has come from a registry that
// may answer with the whole blob.
func (c *Client) Reach(ctx context.Context, b *Blob, r Range) (float64, error) {
	began := time.Now()
	resp, err := c.do(ctx, http.MethodGet, b, r.String())
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		err = check(resp, b, []Range{r})
	case http.StatusOK:
		_, err = io.CopyN(io.Discard, resp.Body, r.Offset+r.Length)
	default:
		err = fmt.Errorf("range %s: %s", r, resp.Status)
	}
	return time.Since(began).Seconds(), err
}

// Draw draws n ranges of 64 KiB up to largest, anywhere in the blob, that are
// not aligned to anything.
func Draw(b *Blob, n int, largest int64, seed uint64) []Range {
	rng := rand.New(rand.NewPCG(seed, 7))
	out := make([]Range, n)
	for i := range out {
		length := 64<<10 + rng.Int64N(largest-64<<10+1)
		out[i] = Range{rng.Int64N(b.Size - length + 1), length}
	}
	return out
}

// Chunked fetches a blob as containerd 2 does with concurrent_layer_fetch_buffer:
// each request names where its chunk begins and no end, and its connection is
// closed when the chunk is there. parallel of them are under way.
func (c *Client) Chunked(ctx context.Context, b *Blob, chunk int64, parallel int) error {
	var wg sync.WaitGroup
	next, errs := make(chan int64), make(chan error, parallel)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range parallel {
		wg.Go(func() {
			for off := range next {
				if err := c.chunk(ctx, b, Range{off, min(chunk, b.Size-off)}); err != nil {
					cancel() // what others make of that comes later
					errs <- err
					return
				}
			}
		})
	}
feed:
	for off := int64(0); off < b.Size; off += chunk {
		select {
		case next <- off:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	close(errs)
	return errors.Join(<-errs, ctx.Err())
}

func (c *Client) chunk(ctx context.Context, b *Blob, r Range) error {
	resp, err := c.do(ctx, http.MethodGet, b, fmt.Sprintf("%d-", r.Offset))
	if err != nil {
		return err
	}
	defer resp.Body.Close() // with bytes still to come: the connection is of no use any more
	if want := fmt.Sprintf("bytes %d-%d/%d", r.Offset, b.Size-1, b.Size); resp.StatusCode != http.StatusPartialContent || resp.Header.Get("Content-Range") != want {
		return fmt.Errorf("chunk at %d: %s, %q", r.Offset, resp.Status, resp.Header.Get("Content-Range"))
	}
	p := make([]byte, r.Length)
	if _, err := io.ReadFull(resp.Body, p); err != nil {
		return fmt.Errorf("chunk at %d: %w", r.Offset, err)
	}
	return b.Check(p, r.Offset)
}
