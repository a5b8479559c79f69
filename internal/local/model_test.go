package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// The model test has clients push, pull, mount, tag, delete and restore at
// random, in repositories that they share, while time passes in leaps and
// collections run all the while. A client knows what it was told and did, which
// is the model: what it holds must be there whole, what it deleted must not. In
// the end nothing else may be left. SAMARA_MODEL_TIME=10m for a long run.

const (
	modelTimeEnv = "SAMARA_MODEL_TIME"
	modelClients = 6
	modelRepos   = 3
	modelLayers  = 12
	modelTags    = 4 // of a client in a repository

	modelRules = `
- repositories: '**'
  protect: ['held-*']
  keep:
    - tags: ['recent-*']
      pushed: 3d
  untagged: 1d
`
)

func modelRepo(k int) string { return fmt.Sprintf("team/app%d", k) }

func modelLayer(i int) []byte { return storetest.Content(uint64(900+i), 1+i*i*3000) }

// model is what all clients share.
type model struct {
	b *bench
	// leap is held shared by who relies on a lease, alone while time leaps.
	leap sync.RWMutex
	mu   sync.Mutex
	held map[string]modelImage // by repository and tag: what must be there
	n    map[string]int        // how often each thing was done
}

// modelImage is what a tag means: an image or an index, and the manifests and
// layers that come with it.
type modelImage struct {
	content   []byte
	mediaType string
	manifests [][]byte
	layers    []int
}

func (m *model) did(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n[what]++
}

// modelClient does one thing after another; its tags are its own.
type modelClient struct {
	*model
	id  int
	rng *rand.Rand
}

func (c *modelClient) run(ctx context.Context) error {
	for ctx.Err() == nil {
		repo, tag := modelRepo(c.rng.IntN(modelRepos)), fmt.Sprintf("held-%d-%d", c.id, c.rng.IntN(modelTags))
		var err error
		switch p := c.rng.IntN(20); {
		case p < 6:
			err = c.push(repo, tag, true)
		case p < 8:
			err = c.push(repo, fmt.Sprintf("recent-%d-%d", c.id, c.rng.IntN(modelTags)), false)
		case p < 9:
			err = c.push(repo, fmt.Sprintf("loose-%d-%d", c.id, c.rng.IntN(modelTags)), false)
		case p < 16:
			err = c.pull(repo, tag)
		case p < 17:
			err = c.abandon(repo)
		default:
			err = c.delete(repo, tag)
		}
		if err != nil {
			return fmt.Errorf("client %d: %s:%s: %w", c.id, repo, tag, err)
		}
	}
	return nil
}

// push pushes an image, or an index with one, and a signature of it now and then.
func (c *modelClient) push(repo, tag string, held bool) error {
	c.leap.RLock()
	defer c.leap.RUnlock()
	m := modelImage{mediaType: ocispec.MediaTypeImageManifest}
	for range 1 + c.rng.IntN(3) {
		m.layers = append(m.layers, c.rng.IntN(modelLayers))
	}
	for _, i := range m.layers {
		if err := c.blob(repo, modelLayer(i)); err != nil {
			return err
		}
	}
	if err := c.blob(repo, []byte("{}")); err != nil {
		return err
	}
	m.content = c.manifest(m.layers, "")
	if c.rng.IntN(3) == 0 {
		if err := c.put(repo, "", m.mediaType, m.content); err != nil {
			return err
		}
		m.manifests = [][]byte{m.content}
		m.mediaType = ocispec.MediaTypeImageIndex
		m.content = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
			m.mediaType, ocispec.MediaTypeImageManifest, digest.FromBytes(m.content), len(m.content))
	}
	if err := c.put(repo, tag, m.mediaType, m.content); err != nil {
		return err
	}
	if c.rng.IntN(3) == 0 {
		sig := c.manifest(m.layers[:1], fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":%d}`, m.mediaType, digest.FromBytes(m.content), len(m.content)))
		if err := c.put(repo, "", ocispec.MediaTypeImageManifest, sig); err != nil {
			return err
		}
		m.manifests = append(m.manifests, sig)
	}
	if held {
		c.mu.Lock()
		c.held[repo+":"+tag] = m
		c.mu.Unlock()
	}
	c.did("push")
	return nil
}

// manifest is an image that no other client has, and no other push: who deletes
// it by digest deletes nobody else's.
func (c *modelClient) manifest(layers []int, more string) []byte {
	var list bytes.Buffer
	for i, n := range layers {
		if i > 0 {
			list.WriteByte(',')
		}
		l := modelLayer(n)
		fmt.Fprintf(&list, `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}`, digest.FromBytes(l), len(l))
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[%s],"annotations":{"by":"%d-%d"}%s}`,
		ocispec.MediaTypeImageManifest, digest.FromString("{}"), list.Bytes(), c.id, c.rng.Uint64(), more)
}

// blob sees to it that a repository has a blob, as clients do: look, mount, push.
func (c *modelClient) blob(repo string, content []byte) error {
	ctx, r := context.Background(), c.b.reg
	n, d := r.name(repo), digest.FromBytes(content)
	if blob, err := r.Blob(ctx, registry.Request{Name: n, Digest: d, Reference: d.String()}); err == nil {
		c.did("look")
		return blob.Content.Close()
	}
	from := registry.Name{}
	if c.rng.IntN(2) == 0 {
		from = r.name(modelRepo(c.rng.IntN(modelRepos)))
	}
	if done, err := r.Mount(ctx, n, d, from); done || err != nil {
		c.did("mount")
		return err
	}
	c.did("upload")
	return crashPush(ctx, r, n, content, d, c.rng)
}

func (c *modelClient) put(repo, tag, mediaType string, content []byte) error {
	var p registry.Put
	if tag != "" {
		p.Tags = []string{tag}
	}
	p.Digest, p.MediaType, p.Content = digest.FromBytes(content), mediaType, content
	_, err := c.b.reg.PutManifest(context.Background(), c.b.reg.name(repo), p)
	return err
}

// pull wants what the client pushed, and nothing where it has deleted it.
func (c *modelClient) pull(repo, tag string) error {
	c.mu.Lock()
	m, held := c.held[repo+":"+tag]
	c.mu.Unlock()
	c.did("pull")
	return c.model.check(repo, tag, m, held)
}

func (m *model) check(repo, tag string, want modelImage, held bool) error {
	ctx, r := context.Background(), m.b.reg
	n := r.name(repo)
	got, err := r.Manifest(ctx, registry.Request{Name: n, Reference: tag})
	var e *registry.Error
	switch {
	case !held && err == nil:
		return errors.New("it was deleted, and is there")
	case !held && errors.As(err, &e) && e.Status == 404:
		return nil
	case err != nil:
		return err
	case !bytes.Equal(got.Content, want.content) || got.MediaType != want.mediaType:
		return errors.New("it is another one")
	}
	for _, content := range want.manifests {
		d := digest.FromBytes(content)
		got, err := r.Manifest(ctx, registry.Request{Name: n, Digest: d, Reference: d.String()})
		if err != nil || !bytes.Equal(got.Content, content) {
			return fmt.Errorf("manifest %s: %w", d, err)
		}
	}
	for _, i := range want.layers {
		d := digest.FromBytes(modelLayer(i))
		blob, err := r.Blob(ctx, registry.Request{Name: n, Digest: d, Reference: d.String()})
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		content, err := io.ReadAll(blob.Content)
		if err = errors.Join(err, blob.Content.Close()); err != nil || !bytes.Equal(content, modelLayer(i)) {
			return fmt.Errorf("layer %d has other bytes: %w", i, err)
		}
	}
	return nil
}

// abandon pushes a blob that no manifest will name, and takes it back now and then.
func (c *modelClient) abandon(repo string) error {
	content := fmt.Appendf(nil, "abandoned %d %d", c.id, c.rng.Uint64())
	n, d := c.b.reg.name(repo), digest.FromBytes(content)
	c.leap.RLock()
	defer c.leap.RUnlock()
	if err := crashPush(context.Background(), c.b.reg, n, content, d, c.rng); err != nil || c.rng.IntN(2) == 0 {
		return err
	}
	c.did("delete blob")
	return c.b.reg.DeleteBlob(context.Background(), n, d)
}

// delete deletes an image, by tag or by digest, and restores it at once now and
// then.
func (c *modelClient) delete(repo, tag string) error {
	c.leap.RLock()
	defer c.leap.RUnlock()
	c.mu.Lock()
	m, held := c.held[repo+":"+tag]
	delete(c.held, repo+":"+tag)
	c.mu.Unlock()
	r := c.b.reg
	req := registry.Request{Name: r.name(repo), Reference: tag}
	if held && c.rng.IntN(2) == 0 {
		req.Digest = digest.FromBytes(m.content)
		req.Reference = req.Digest.String()
	}
	err := r.Delete(context.Background(), req, registry.Condition{})
	var e *registry.Error
	if !held && errors.As(err, &e) && e.Status == 404 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	c.did("delete")
	if !held || c.rng.IntN(2) == 0 {
		return c.model.check(repo, tag, m, false)
	}
	if _, err := r.Restore(context.Background(), repo, tag); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	c.did("restore")
	c.mu.Lock()
	c.held[repo+":"+tag] = m
	c.mu.Unlock()
	return c.model.check(repo, tag, m, true)
}

// collect runs one collection after another, and lets time pass between some.
func (m *model) collect(ctx context.Context, rng *rand.Rand) error {
	for ctx.Err() == nil {
		p, err := m.b.reg.Collect(ctx, CollectOptions{DryRun: rng.IntN(4) == 0})
		if err != nil && ctx.Err() == nil {
			return err
		}
		if len(p.Problems) > 0 && ctx.Err() == nil { // else it was stopped half-way
			return fmt.Errorf("collection: %v", p.Problems)
		}
		m.mu.Lock()
		m.n["collection"]++
		m.n["removed"] += len(p.Removed)
		m.n["freed"] += p.Freed.Blobs
		m.n["expired"] += p.Expired
		m.n["busy"] += p.Busy
		m.mu.Unlock()
		if rng.IntN(3) == 0 {
			m.leap.Lock()
			m.b.pass(time.Duration(rng.IntN(20)) * time.Hour)
			m.leap.Unlock()
			m.did("leap")
		}
	}
	return nil
}

func TestModel(t *testing.T) {
	long := 3 * time.Second
	if s := os.Getenv(modelTimeEnv); s != "" {
		var err error
		if long, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	b := newBench(t)
	b.space(func(o *Options) {
		o.TrashPeriod, o.Retention = 2*day, rules(t, modelRules)
		o.Quotas = []Quota{{Prefix: "team/app0", Size: 1 << 30}, {Prefix: "team", Size: 1 << 30}}
	})
	m := &model{b: b, held: map[string]modelImage{}, n: map[string]int{}}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var wg sync.WaitGroup
	work := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
				cancel()
			}
		})
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for id := range modelClients {
		c := &modelClient{m, id, rand.New(rand.NewPCG(seed, uint64(id)))}
		work(c.run)
	}
	work(func(ctx context.Context) error { return m.collect(ctx, rand.New(rand.NewPCG(seed, modelClients))) })
	wg.Wait()
	t.Logf("%v", m.n)
	if t.Failed() {
		return
	}
	b.restart()
	m.compare(t)
	things := []string{"push", "pull", "upload", "look", "collection"}
	if long > time.Minute { // a slow machine does not come to all in a few seconds
		things = append(things, "delete", "restore", "mount", "delete blob", "removed", "expired", "freed", "leap")
	}
	for _, what := range things {
		if m.n[what] == 0 {
			t.Errorf("no %s in %v", what, long)
		}
	}
}

// compare lets everything that may go be gone, and wants all that must be there
// and nothing else.
func (m *model) compare(t *testing.T) {
	t.Helper()
	for range 4 { // tags and manifests, blobs, the trash, and what a lease kept
		m.b.pass(4 * day)
		m.b.collect()
	}
	want := map[digest.Digest]bool{}
	if len(m.held) > 0 {
		want[digest.FromString("{}")] = true
	}
	for name, image := range m.held {
		i := bytes.IndexByte([]byte(name), ':')
		if err := m.check(name[:i], name[i+1:], image, true); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, content := range slices.Concat(image.manifests, [][]byte{image.content}) {
			want[digest.FromBytes(content)] = true
		}
		for _, l := range image.layers {
			want[digest.FromBytes(modelLayer(l))] = true
		}
	}
	for _, in := range m.b.store.Infos() {
		if !want[in.Digest] {
			t.Errorf("%s is left over, of %d bytes", in.Digest, in.Size)
		}
		delete(want, in.Digest)
	}
	for d := range want {
		t.Errorf("%s is missing", d)
	}
	for k := range modelRepos {
		tags, err := m.b.reg.Tags(t.Context(), m.b.reg.name(modelRepo(k)), 0, "")
		if err != nil {
			t.Error(err)
		}
		for _, tag := range tags {
			if _, held := m.held[modelRepo(k)+":"+tag]; !held {
				t.Errorf("%s:%s is left over", modelRepo(k), strconv.Quote(tag))
			}
		}
	}
	m.b.counted()
}
