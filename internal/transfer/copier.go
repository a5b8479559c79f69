package transfer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Copier moves images from a Source to a Target. One goroutine calls it.
type Copier struct {
	Source   Source
	Target   Target
	Progress *Progress
	Report   *Report
	// Platforms to move of an index; none: the index as it is, with all.
	Platforms []registry.Platform
	// Referrers takes along what refers to an image (signatures, SBOMs), by the
	// referrers list and by cosign's tags.
	Referrers bool
	// Jobs is how many blobs of an image are moved at a time.
	Jobs int

	visited []digest.Digest // manifests of the image under way

	mu   sync.Mutex
	done map[string]bool // "repository digest" of what is at the target
}

// cosignSuffixes are those of the tags sha256-HEX.SUFFIX that cosign keeps what
// belongs to an image under; the bare one stands in for the referrers list.
var cosignSuffixes = []string{".sig", ".att", ".sbom", ""}

// maxNesting bounds indexes in indexes, and referrers of referrers.
const maxNesting = 8

// Run moves all items. It returns an error where the target failed or ctx
// ended; what was wrong with the source is in the Report.
func (c *Copier) Run(ctx context.Context, items []Item) error {
	c.done = make(map[string]bool)
	c.Progress.Total.Add(int64(len(items)))
	defer func() { c.Report.Seconds = time.Since(c.Report.started).Seconds() }()
	for _, it := range items {
		if it.ToTag == "" && c.Moved(it.ToRepository, digest.Digest(it.Reference)) {
			c.Progress.Images.Add(1)
			continue // an index named it
		}
		c.Progress.Begin(it.String())
		unchanged, err := c.image(ctx, it)
		var fault *Fault
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &fault):
			c.Report.Add(it.String(), fault.Error())
		case err != nil:
			return fmt.Errorf("%s: %w", it, err)
		default:
			c.Report.Images++
			if unchanged {
				c.Report.Unchanged++
			}
		}
		c.Progress.Images.Add(1)
	}
	return nil
}

// image moves one, with what refers to it.
func (c *Copier) image(ctx context.Context, it Item) (unchanged bool, err error) {
	m, err := c.get(ctx, it.Repository, it.Reference)
	if err != nil {
		return false, err
	}
	if m, err = c.chosen(ctx, it, m); err != nil {
		return false, err
	}
	if registry.IsDigest(it.ToTag) {
		it.ToTag = m.Digest.String() // of the platforms that were chosen
	}
	before := c.Report.Manifests
	c.visited = nil
	if err := c.manifest(ctx, it, m, it.ToTag, 0); err != nil {
		return false, err
	}
	if !c.Referrers {
		return c.Report.Manifests == before, nil
	}
	for _, d := range slices.Clone(c.visited) { // what an index names has referrers of its own
		if err := c.referrers(ctx, it, d, 0); err != nil {
			return false, err
		}
	}
	return c.Report.Manifests == before, nil
}

// get gets a manifest that has its digest.
func (c *Copier) get(ctx context.Context, repo, ref string) (registry.Manifest, error) {
	m, err := c.Source.Manifest(ctx, repo, ref)
	what := "manifest " + ref
	if err != nil {
		return m, &Fault{What: what, Err: err}
	}
	if want, err := registry.ParseDigest(ref); err == nil && registry.IsDigest(ref) {
		m.Digest = want
	}
	if m.Digest.Algorithm().FromBytes(m.Content) != m.Digest {
		return m, &Fault{What: "manifest " + m.Digest.String(), Err: errDamaged}
	}
	return m, nil
}

// manifest moves a manifest after all that it names.
func (c *Copier) manifest(ctx context.Context, it Item, m registry.Manifest, tag string, depth int) error {
	if tag == "" && c.Moved(it.ToRepository, m.Digest) {
		return nil
	}
	what := "manifest " + m.Digest.String()
	p, err := registry.Parse(m.MediaType, m.Content)
	switch {
	case err != nil:
		return &Fault{What: what, Err: err}
	case p.Kind == registry.KindUnknown:
		return &Fault{What: what, Err: fmt.Errorf("its type %q is not one that a seeder keeps", cmp.Or(p.MediaType, m.MediaType))}
	case depth > maxNesting:
		return &Fault{What: what, Err: errors.New("it is nested too deeply")}
	}
	m.MediaType = p.MediaType
	c.visited = append(c.visited, m.Digest)
	if err := c.children(ctx, it, p, depth); err != nil {
		return err
	}
	has, err := c.Target.Has(ctx, it.ToRepository, m.Digest, tag)
	if err != nil {
		return err
	}
	if !has {
		if err := c.Target.PutManifest(ctx, it.ToRepository, m, tag); err != nil {
			return err
		}
		c.Report.Manifests++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done[key(it.ToRepository, m.Digest)] = true
	return nil
}

func key(repo string, d digest.Digest) string { return repo + " " + d.String() }

// Moved tells whether a manifest or blob is in a repository of the target, as
// far as this run knows.
func (c *Copier) Moved(repo string, d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done[key(repo, d)]
}

// children moves what a manifest names: manifests one after another, blobs
// side by side. An index may also name blobs.
func (c *Copier) children(ctx context.Context, it Item, p *registry.Parsed, depth int) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, c.Jobs))
	seen := make(map[digest.Digest]bool)
	for _, d := range p.Children {
		if registry.Foreign(d) || seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if p.Kind != registry.KindIndex || d.MediaType != "" && !registry.IsManifestType(d.MediaType) {
			g.Go(func() error { return c.blob(gctx, it, d) })
			continue
		}
		m, err := c.get(ctx, it.Repository, d.Digest.String())
		if err == nil {
			err = c.manifest(ctx, it, m, "", depth+1)
		}
		if err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	return g.Wait()
}

// blob moves one blob, once.
func (c *Copier) blob(ctx context.Context, it Item, d registry.Descriptor) error {
	if c.Moved(it.ToRepository, d.Digest) {
		return nil
	}
	there, err := c.Target.Mount(ctx, it.ToRepository, d)
	linked := false
	if err == nil && !there {
		linked, err = c.putBlob(ctx, it, d)
	}
	if err != nil {
		return err
	}
	c.Progress.Blobs.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done[key(it.ToRepository, d.Digest)] = true
	switch r := c.Report; {
	case there:
		r.BlobsPresent++
	case linked:
		r.BlobsLinked++
		r.BytesLinked += d.Size
	default:
		r.BlobsCopied++
		r.BytesCopied += d.Size
	}
	return nil
}

func (c *Copier) putBlob(ctx context.Context, it Item, d registry.Descriptor) (linked bool, err error) {
	return c.Target.PutBlob(ctx, it.ToRepository, d, func() (Content, error) {
		content, err := c.Source.Blob(ctx, it.Repository, d)
		if err != nil {
			return content, &Fault{What: "blob " + d.Digest.String(), Err: err}
		}
		content.ReadCloser = newVerified(content.ReadCloser, d, &c.Progress.Bytes)
		return content, nil
	})
}

// referrers moves what refers to a manifest, and what refers to that. That an
// image has none is the rule; a source that cannot say is a fault.
func (c *Copier) referrers(ctx context.Context, it Item, d digest.Digest, depth int) error {
	if depth > maxNesting {
		return nil
	}
	list, err := c.Source.Referrers(ctx, it.Repository, d)
	if err != nil {
		return &Fault{What: "referrers of " + d.String(), Err: err}
	}
	for _, r := range list {
		m, err := c.get(ctx, it.Repository, r.Digest.String())
		if err == nil {
			err = c.manifest(ctx, it, m, "", 0)
		}
		if err == nil {
			err = c.referrers(ctx, it, r.Digest, depth+1)
		}
		if err != nil {
			return err
		}
	}
	for _, suffix := range cosignSuffixes {
		tag := strings.Replace(d.String(), ":", "-", 1) + suffix
		m, err := c.Source.Manifest(ctx, it.Repository, tag)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return &Fault{What: "tag " + tag, Err: err}
		}
		if err := c.manifest(ctx, it, m, tag, 0); err != nil {
			return err
		}
	}
	return nil
}

// chosen is the manifest to move where platforms were chosen: of one platform
// its own, of several an index of them.
func (c *Copier) chosen(ctx context.Context, it Item, m registry.Manifest) (registry.Manifest, error) {
	p, err := registry.Parse(m.MediaType, m.Content)
	if err != nil || p.Kind != registry.KindIndex || len(c.Platforms) == 0 {
		return m, nil // what is wrong with it shows when it is moved
	}
	var keep []registry.Descriptor
	for _, want := range c.Platforms {
		of := registry.Select(p.Children, want)
		if len(of) == 0 || of[0].Platform == nil {
			return m, &Fault{What: "manifest " + m.Digest.String(), Err: fmt.Errorf("it has nothing for platform %s", platformText(want))}
		}
		if !slices.ContainsFunc(keep, func(d registry.Descriptor) bool { return d.Digest == of[0].Digest }) {
			keep = append(keep, of[0])
		}
	}
	if len(keep) == 1 {
		return c.get(ctx, it.Repository, keep[0].Digest.String())
	}
	content, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: p.MediaType, Manifests: keep, Annotations: p.Annotations})
	if err != nil {
		return m, err
	}
	return registry.Manifest{Digest: digest.FromBytes(content), MediaType: p.MediaType, Content: content}, nil
}

func platformText(p registry.Platform) string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}
