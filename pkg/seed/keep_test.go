package seed

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

// rot changes the first byte of content on the seeder's disk; a file that is
// not there yet comes soon.
func (b *bench) rot(d digest.Digest) {
	b.t.Helper()
	paths := []string{
		filepath.Join(b.c.Data, "store", "blobs", "sha256", d.Encoded()[:2], d.Encoded(), "data"),
		filepath.Join(b.c.Data, "store", "small", "sha256", d.Encoded()),
	}
	b.Until("it is on the disk", func() error {
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				content[0]++
				err = os.WriteFile(path, content, 0o600)
			}
			return err
		}
		return fs.ErrNotExist
	})
}

// Content that rots is found by the scrub. What an upstream has is there again
// soon; what was pushed is 404 until it is pushed again.
func TestScrub(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) {
		c.LocalRepositories, c.ScrubEvery = []string{"team"}, 0
		c.Allow = []string{"anyone pull+push **"}
	})
	img := b.up.AddImage("lab/app", "v1", 1000, 2*mib)
	b.get(manifestPath("v1"), 200)
	for _, d := range img.Layers {
		b.blob(d)
	}
	content := []byte("pushed")
	d := digest.FromBytes(content)
	push := func() {
		t.Helper()
		resp, err := http.Post(b.URL+"/v2/team/app/blobs/uploads/?digest="+d.String(), "application/octet-stream", bytes.NewReader(content))
		if err != nil || resp.StatusCode != 201 {
			t.Fatalf("%+v, %v", resp, err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	push()
	rotten := []digest.Digest{img.Digest, img.Layers[0], img.Layers[1], d}
	for _, d := range rotten {
		b.rot(d)
	}
	if r, err := daemontest.Do(t.Context(), "POST", b.Admin+"/v1/scrub"); err != nil || r.Status != 202 {
		t.Fatalf("%+v, %v", r, err)
	}
	b.Until("only what was pushed is damaged", func() error {
		st := b.Status()
		r, err := daemontest.Get(b.Admin + "/metrics")
		if err != nil {
			return err
		}
		if !bytes.Contains(r.Body, []byte("\nseeder_store_corrupt_total 4\n")) || len(st.Scrub.Damaged) != 1 || st.Scrub.Damaged[0].Digest != d.String() || st.Scrub.Damaged[0].Error == "" {
			return fmt.Errorf("%+v", st.Scrub)
		}
		return nil
	})
	st := b.Status()
	if len(st.Warnings) == 0 || st.Warnings[len(st.Warnings)-1].Code != "content-damaged" || !st.Scrub.Damaged[0].Kept {
		t.Errorf("%+v, %+v", st.Warnings, st.Scrub)
	}
	path := "/v2/team/app/blobs/" + d.String()
	if r := b.get(path, 404); !strings.Contains(string(r.Body), "damaged on this registry's disk") {
		t.Errorf("%s", r.Body)
	}
	if r, err := daemontest.Head(b.URL + path); err != nil || r.Status != 404 {
		t.Errorf("%+v, %v", r, err) // or no client sends it again
	}
	push()
	if r := b.get(path, 200); !bytes.Equal(r.Body, content) {
		t.Errorf("%q", r.Body)
	}
	if st := b.Status(); len(st.Scrub.Damaged) != 0 {
		t.Errorf("%+v", st.Scrub.Damaged)
	}
	b.up.Close()
	b.get(manifestPath(img.Digest.String()), 200)
	for _, d := range img.Layers {
		b.blob(d)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A quota of an upstream's repositories holds for what they alone use.
func TestProxiedQuota(t *testing.T) {
	b := newBench(t, nil)
	images := make([]digest.Digest, 3)
	for i := range images {
		img := b.up.AddImage("lab/app", fmt.Sprint("v", i), 2*mib+i)
		images[i] = img.Layers[0]
		b.get(manifestPath(fmt.Sprint("v", i)), 200)
		b.blob(images[i])
		b.Until("kept", func() error { // which it is after its last byte has left
			if in := b.Status().Store; in.Complete < 2*(i+1) {
				return fmt.Errorf("%+v", in)
			}
			return nil
		})
	}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.c.Quotas = []string{"docker.io=1GiB", upName + "=5MiB", upName + "/lab/other=1MiB"}
	b.start()
	p := b.Status().Store.Prefixes
	if len(p) != 3 || p[2].Prefix != "docker.io" && p[1].Prefix != "docker.io" {
		t.Fatalf("%+v", p)
	}
	for _, x := range p {
		if want := x.Prefix == upName; want != (x.Used > 4*mib) || x.Used > x.Quota {
			t.Errorf("%+v", x)
		}
	}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.c.Offline = true
	b.start()
	b.get(blobPath(images[0]), 404)
	b.blob(images[1])
	b.blob(images[2])
}
