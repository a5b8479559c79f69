package daemon_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// A pull of a manifest is one of its blobs, the manifest itself being used last;
// one of an index is of the index alone.
func TestPulled(t *testing.T) {
	c := daemontest.Common(t, config.DefaultSeeder().Common)
	turn := daemontest.Turn(t, "seeder", c)
	open := func() *daemon.Daemon {
		t.Helper()
		d, err := daemon.Open(t.Context(), daemon.Params{Name: "seeder", Version: "test", Turn: turn, Config: c, Seeder: true,
			Prefixes: []store.PrefixQuota{{Prefix: "docker.io/library", Bytes: 1 << 30}}})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	layer, other := []byte("a layer that somebody else has, too"), []byte("a layer of another image")
	m := &registry.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.Content = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":%d},"layers":[]}`, m.MediaType, digest.FromBytes(layer), len(layer))
	m.Digest = digest.FromBytes(m.Content)
	index := &registry.Manifest{MediaType: ocispec.MediaTypeImageIndex}
	index.Content = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, index.MediaType, m.MediaType, m.Digest, len(m.Content))
	index.Digest = digest.FromBytes(index.Content)

	d := open()
	for _, content := range [][]byte{layer, other, m.Content, index.Content} {
		if err := d.Store.Put(digest.FromBytes(content), content, store.Meta{Sources: []string{"ghcr.io/a/b"}}); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	past := time.Now().Add(-time.Hour)
	err := filepath.WalkDir(c.Data, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "meta" {
			err = os.Chtimes(path, past, past)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	d = open()
	defer d.Close()
	used := func(d2 digest.Digest) time.Time {
		in, err := d.Store.Stat(d2)
		if err != nil {
			t.Fatal(err)
		}
		return in.LastUse
	}
	n := registry.Name{Upstream: "docker.io", Repository: "library/app"}
	d.Pulled(n, index)
	if !used(index.Digest).After(past.Add(time.Minute)) || used(m.Digest).After(past.Add(time.Minute)) {
		t.Errorf("of a pulled index: it was used %v, its manifest %v", used(index.Digest), used(m.Digest))
	}
	d.Pulled(n, m)
	if l := used(digest.FromBytes(layer)); !l.After(past.Add(time.Minute)) || used(m.Digest).Before(l) {
		t.Errorf("of a pulled manifest: it was used %v, its layer %v", used(m.Digest), l)
	}
	if used(digest.FromBytes(other)).After(past.Add(time.Minute)) {
		t.Error("a layer of another image was used")
	}
	if p := d.Store.Usage().Prefixes[0]; p.Used != int64(len(layer)+len(m.Content)+len(index.Content)) {
		t.Errorf("%d bytes count for the prefix", p.Used)
	}
}
