package upstreamtest

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func get(t *testing.T, url, rng string) (int, []byte, error) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func TestServesWhatItHolds(t *testing.T) {
	s := New()
	defer s.Close()
	img := s.AddImage("library/app", "1", 10_000, 100)
	layer := s.URL() + "/v2/library/app/blobs/" + img.Layers[0].String()

	status, body, err := get(t, layer, "")
	if err != nil || status != 200 || digest.FromBytes(body) != img.Layers[0] {
		t.Fatalf("layer: %d, %v", status, err)
	}
	if _, err := tar.NewReader(bytes.NewReader(body)).Next(); err != nil {
		t.Errorf("layer is no tar: %v", err)
	}
	if status, part, _ := get(t, layer, "bytes=100-199"); status != 206 || !bytes.Equal(part, body[100:200]) {
		t.Errorf("range: %d, %d bytes", status, len(part))
	}
	if status, part, _ := get(t, layer, "bytes=-5"); status != 206 || !bytes.Equal(part, body[len(body)-5:]) {
		t.Errorf("suffix range: %d, %d bytes", status, len(part))
	}
	if status, _, _ := get(t, layer, "bytes=10000-"); status != 416 {
		t.Errorf("range beyond the end: %d", status)
	}
	if n := s.BytesServed(img.Layers[0]); n < 10_105 {
		t.Errorf("counted %d bytes", n)
	}
	if n := s.Count("GET", "/blobs/"); n != 4 {
		t.Errorf("counted %d requests", n)
	}
	if status, m, _ := get(t, s.URL()+"/v2/library/app/manifests/1", ""); status != 200 || !bytes.Equal(m, img.Manifest) {
		t.Errorf("manifest: %d", status)
	}
	if status, tags, _ := get(t, s.URL()+"/v2/library/app/tags/list", ""); status != 200 || string(tags) != `{"name":"library/app","tags":["1"]}`+"\n" {
		t.Errorf("tags: %d %s", status, tags)
	}
}

func TestFaults(t *testing.T) {
	s := New()
	defer s.Close()
	d, content := s.AddRandomBlob(100_000)
	url := s.URL() + "/v2/a/blobs/" + d.String()

	s.SetFault(d.String(), Fault{Cut: 0.3, Times: 1})
	if _, body, err := get(t, url, ""); err == nil || len(body) != 30_000 {
		t.Errorf("cut: %d bytes, error %v", len(body), err)
	}
	if _, body, err := get(t, url, ""); err != nil || len(body) != 100_000 {
		t.Errorf("healed: %d bytes, error %v", len(body), err)
	}
	s.SetFault("blobs", Fault{Corrupt: true})
	if _, body, err := get(t, url, ""); err != nil || len(body) != 100_000 || bytes.Equal(body, content) {
		t.Errorf("corrupt: %d bytes, error %v", len(body), err)
	}
	s.SetFault("blobs", Fault{NoLength: true, Cut: 0.5})
	if _, body, err := get(t, url, ""); err != nil || len(body) != 50_000 {
		t.Errorf("cut without a length: %d bytes, error %v", len(body), err)
	}
	s.SetFault("blobs", Fault{Status: 503})
	if status, _, _ := get(t, url, ""); status != 503 {
		t.Errorf("status: %d", status)
	}
	s.ClearFaults()
	s.SetAuth(&Auth{Username: "u", Password: "p"})
	if status, _, _ := get(t, url, ""); status != 401 {
		t.Errorf("without credentials: %d", status)
	}
}

func TestCloseReleasesAStall(t *testing.T) {
	s := New()
	d, _ := s.AddRandomBlob(1000)
	s.SetFault("blobs", Fault{Stall: 0.5})
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(s.URL() + "/v2/a/blobs/" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if n, err := resp.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("a stalled body went on: %d bytes, %v", n, err)
	}
}
