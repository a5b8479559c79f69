package seed

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// A copy in the object store is no permission either: it is kept by digest, and
// who may not pull everything has it by the name of a repository that has it.
func TestObjectStoreCopyIsNoPermission(t *testing.T) {
	const ops = "Authorization: Basic b3BzOnJvb3Q="
	hash, err := bcrypt.GenerateFromPassword([]byte("root"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(users, []byte("ops:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := newKept(t, func(c *config.Seeder) {
		c.Htpasswd, c.Allow = users, []string{"anyone pull up.test/public/**", "user:ops pull **"}
	})
	secret := k.up.AddImage("secret/app", "v1", 1000)
	k.up.AddImage("public/app", "v1", 1000)
	k.get("/v2/secret/app/manifests/v1", 200, ops)
	k.get("/v2/secret/app/blobs/"+secret.Layers[0].String(), 200, ops)
	k.Until("copied", func() error {
		if keys := k.at("cache/"); len(keys) < 2 || k.Status().ObjectStore.Copies > 0 {
			return fmt.Errorf("%v", keys)
		}
		return nil
	})
	k.empty()
	// The upstream of these tests has blobs in common for all repositories.
	manifest, layer := secret.Digest.String(), secret.Layers[0].String()
	k.up.SetFault(manifest, upstreamtest.Fault{Status: 404})
	k.up.SetFault(layer, upstreamtest.Fault{Status: 404})
	k.get("/v2/public/app/manifests/"+manifest, 404)
	k.up.AddManifest("public/app", "trap", secret.Descriptor.MediaType, append([]byte(" "), secret.Manifest...))
	k.get("/v2/public/app/manifests/trap", 200)
	k.get("/v2/public/app/blobs/"+layer, 404)
	k.up.ClearFaults()
	k.get("/v2/public/app/blobs/"+layer, 200)
}
