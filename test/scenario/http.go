package scenario

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/test/lab"
)

// fetch gets a small page from a host; any answer but 2xx is an error.
func fetch(ctx context.Context, h *lab.Host, url string) ([]byte, error) {
	resp, err := get(ctx, h, url, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return body, fmt.Errorf("GET %s: %s: %.200s", url, resp.Status, body)
	}
	return body, nil
}

// get sends one request over a connection of its own.
func get(ctx context.Context, h *lab.Host, url, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	client := h.HTTPClient()
	client.Transport.(*http.Transport).DisableKeepAlives = true
	return client.Do(req)
}

func digestOf(b blobInfo) digest.Digest { return digest.Digest(b.digest) }
