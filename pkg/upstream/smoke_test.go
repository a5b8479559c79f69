package upstream

import (
	"bytes"
	"io"
	"testing"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

func TestSmoke(t *testing.T) {
	up := upstreamtest.New()
	defer up.Close()
	img := up.AddImage("library/app", "1", 1_000_000, 100)
	up.SetFault("blobs", upstreamtest.Fault{Cut: 0.3})
	c, err := New([]Registry{{"up", up.URL()}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := c.Manifest(t.Context(), "up", "library/app", "1", nil)
	if err != nil || m.Digest != img.Digest {
		t.Fatal(err, m)
	}
	d, err := c.Head(t.Context(), "up", "library/app", "1")
	if err != nil || d.Digest != img.Digest {
		t.Fatal(err, d)
	}
	r, err := c.Blob(t.Context(), "up", "library/app", img.Layers[0], 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(b, up.Blob(img.Layers[0])) {
		t.Fatal(err, len(b))
	}
	tags, err := c.Tags(t.Context(), "up", "library/app", 0, "")
	t.Log(tags, err)
	_, err = c.Manifest(t.Context(), "up", "library/app", "2", nil)
	t.Log(err)
	_, err = c.Manifest(t.Context(), "upp", "library/app", "2", nil)
	t.Log(err)
	t.Logf("%+v", c.Stats())
}
