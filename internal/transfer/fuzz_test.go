package transfer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Whatever an index.json holds, opening the layout ends, and each image that is
// found has a name that can be one.
func FuzzLayoutIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"annotations":{"org.opencontainers.image.ref.name":"team/app:v1"}}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x"}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, "index.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLayout(dir, "")
		if err != nil {
			return
		}
		defer l.Close()
		for _, im := range l.Images() {
			_, rest := Host(im[0])
			if !registry.ValidRepository(rest) || !registry.IsDigest(im[1]) && !registry.ValidTag(im[1]) {
				t.Errorf("%q", im)
			}
		}
	})
}
