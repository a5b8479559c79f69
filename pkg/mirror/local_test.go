package mirror

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// localName is what clients call the seeder's own repositories.
const localName = "registry.test"

// pushing starts the seeder anew, with local repositories.
func (b *bench) pushing() {
	b.t.Helper()
	if err := b.seeder.Stop(); err != nil {
		b.t.Fatal(err)
	}
	b.sc.LocalRepositories, b.sc.Allow = []string{"team"}, []string{"anyone pull+push **"}
	b.sc.LocalNames = []string{localName}
	b.startSeeder()
}

// push pushes an image to the seeder, as clients do.
func (b *bench) push(repo, tag string, size int64) v1.Image {
	b.t.Helper()
	img, err := random.Image(size, 3)
	if err != nil {
		b.t.Fatal(err)
	}
	ref, err := name.NewTag(strings.TrimPrefix(b.seeder.URL, "http://")+"/"+repo+":"+tag, name.Insecure)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		b.t.Fatal(err)
	}
	return img
}

// pulls checks that a host gets an image of a local repository whole.
func (p *host) pulls(repo, ref string, img v1.Image) {
	p.t.Helper()
	const ns = "?ns=" + localName
	want, err := img.RawManifest()
	if err != nil {
		p.t.Fatal(err)
	}
	if r := p.get("/v2/"+repo+"/manifests/"+ref+ns, 200); !bytes.Equal(r.Body, want) {
		p.t.Fatalf("manifest: %.200s", r.Body)
	}
	m, err := img.Manifest()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, d := range append(m.Layers, m.Config) {
		r := p.get("/v2/"+repo+"/blobs/"+d.Digest.String()+ns, 200)
		if d.Digest == m.Config.Digest {
			continue
		}
		layer, err := img.LayerByDigest(d.Digest)
		if err != nil {
			p.t.Fatal(err)
		}
		c, err := layer.Compressed()
		if err != nil {
			p.t.Fatal(err)
		}
		content, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(r.Body, content) {
			p.t.Fatalf("layer %s: %d bytes, %v", d.Digest, len(r.Body), err)
		}
	}
}

// What is pushed to the seeder goes through the swarm as what is fetched does:
// in signed pieces, from hosts that have it, also when the seeder is gone. No
// upstream hears of it.
func TestLocalRepositories(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.lock()
	b.pushing()
	img := b.push("team/app", "v1", 3*mib)
	h1, h2, h3 := b.peer(nil), b.peer(nil), b.peer(nil)
	h1.pulls("team/app", "v1", img)
	h2.pulls("team/app", "v1", img)
	for _, h := range []*host{h1, h2} {
		if st := h.Status(); st.Bytes.FromSeeder+st.Bytes.FromPeers < 9*mib || st.Bytes.FromUpstream > 0 {
			t.Errorf("%+v", st.Bytes)
		}
	}
	if n := b.up.Count("", ""); n != 0 {
		t.Errorf("%d requests at the upstream", n)
	}
	// A tag that moves is seen by whoever asks next.
	img = b.push("team/app", "v1", mib)
	h1.pulls("team/app", "v1", img)
	// Small enough to have no swarm.
	small := b.push("team/small", "v1", 1000)
	h1.pulls("team/small", "v1", small)

	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	h3.joined(2)
	h3.pulls("team/app", d.String(), img)
	if st := h3.Status(); st.Bytes.FromPeers < 3*mib {
		t.Errorf("%+v", st.Bytes)
	}
}

// What was pushed is there, and shared, after a restart of the seeder.
func TestLocalAfterRestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pushing()
	img := b.push("team/app", "v1", 2*mib)
	b.pushing()
	h := b.peer(nil)
	h.pulls("team/app", "v1", img)
	if st := h.Status(); st.Bytes.FromSeeder < 6*mib || st.Bytes.FromUpstream > 0 {
		t.Errorf("%+v", st.Bytes)
	}
}
