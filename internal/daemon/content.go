package daemon

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// maxCatalog bounds the digests remembered from manifests.
const maxCatalog = 1_000_000

// openContent opens the store, what is remembered beside it, and the upstreams.
func (d *Daemon) openContent(context.Context) (err error) {
	c := d.p.Config
	d.Store, err = store.Open(filepath.Join(c.Data, "store"), store.Options{
		Quota: int64(c.Quota), Prefixes: d.p.Prefixes, Log: d.Log.Named("store"), Registerer: d.Metrics, Namespace: d.p.Name,
		Verify: d.signedHashes,
	})
	if err != nil {
		return err
	}
	d.atClose(func() { _ = d.Store.Close() })
	if d.Tags, err = registry.OpenTags(filepath.Join(c.Data, "tags")); err != nil {
		return err
	}
	if d.ReferrerTags, err = registry.OpenTags(filepath.Join(c.Data, "referrers")); err != nil {
		return err
	}
	d.Catalog = registry.NewCatalog(maxCatalog)
	names := make([]string, 0, len(c.Upstreams))
	for _, u := range c.Upstreams {
		names = append(names, u.Name)
	}
	def := c.Default()
	if !d.p.Seeder && !slices.Contains(names, def) {
		def = "" // the seeder may know it
	}
	if d.Resolver, err = registry.NewResolver(names, def); err != nil {
		return err
	}
	if c.DockerConfig != "" {
		if err := os.Setenv("DOCKER_CONFIG", c.DockerConfig); err != nil {
			return err
		}
	}
	d.Upstream, err = upstream.New(Registries(c.Upstreams), upstream.Options{
		ID: d.id.String(), Offline: c.Offline, RateReserve: c.RateReserve, MaxConcurrent: c.MaxConcurrent, UserAgent: "samara-" + d.p.Name + "/" + d.p.Version,
		Log: d.Log.Named("upstream"), Registerer: d.Metrics, Namespace: d.p.Name,
	})
	if err != nil {
		return err
	}
	d.atClose(d.Upstream.Close)
	return nil
}

// Registries are configured upstreams in the words of pkg/upstream.
func Registries(list []config.Upstream) []upstream.Registry {
	out := make([]upstream.Registry, len(list))
	for i, u := range list {
		out[i] = upstream.Registry{Name: u.Name, URL: u.URL, Mirrors: u.Mirrors, Helper: u.CredentialHelper, File: u.CredentialsFile,
			Rules: upstream.Rules{Allow: u.Allow, Deny: u.Deny, MaxBlob: int64(u.MaxBlob)}}
		if u.Seeder {
			out[i].NS = u.Name
		}
	}
	return out
}

func (d *Daemon) trusted(p peer.ID) bool {
	return d.p.Trusted != nil && d.p.Trusted(p) || d.p.Seeder && p == d.id
}

// signedHashes tells the store what the pieces of a partial blob must hash to,
// by the runs of trusted signers that were kept with it.
func (d *Daemon) signedHashes(dg digest.Digest, size int64, envelopes [][]byte) func(int) (piece.Hash, bool) {
	g, err := piece.GeometryOf(size)
	if err != nil {
		return nil
	}
	l := piece.NewList(dg, g)
	for _, env := range envelopes {
		r, signer, err := piece.Open(env)
		if err != nil || !d.trusted(signer) || r.Digest != dg || r.Size != size {
			continue
		}
		_, _ = l.Add(r, env) // a run that contradicts another adds nothing
	}
	return l.Hash
}

// locate finds the size and source of a digest that a peer asks for.
func (d *Daemon) locate(dg digest.Digest) (fetch.Want, bool) {
	k, ok := d.Catalog.Find(dg)
	if !ok || k.Size < 0 {
		return fetch.Want{}, false
	}
	return fetch.Want{Digest: dg, Size: k.Size, Source: fetch.Source{Upstream: k.Name.Upstream, Repository: k.Name.Repository}}, true
}

// learnStored fills the catalogue from the manifests in the store.
func (d *Daemon) learnStored() {
	for _, in := range d.Store.Infos() {
		if !in.Complete || len(in.Meta.Sources) == 0 || !registry.IsManifestType(in.Meta.MediaType) {
			continue
		}
		n, err := registry.ParseName(in.Meta.Sources[0])
		if err != nil {
			continue
		}
		content, mediaType, err := d.Engine.Held(in.Digest, registry.MaxManifestSize)
		if err != nil {
			continue
		}
		p, err := d.Catalog.Learn(n, in.Digest, mediaType, content)
		if err != nil {
			d.Log.Warn("a stored manifest is not understood", zap.Stringer("digest", in.Digest), zap.Error(err))
			continue
		}
		for _, c := range p.Children {
			for _, source := range in.Meta.Sources {
				d.Store.CountFor(c.Digest, source)
			}
		}
	}
}

// freshUse is how old a use of an image may be that another one does not add to.
const freshUse = time.Minute

// Pulled notes that a client has taken a manifest by the name of n: its blobs are
// used by it now, those too that the client has already and does not ask for. An
// index says nothing of which platform is wanted.
func (d *Daemon) Pulled(n registry.Name, m *registry.Manifest) {
	if in, err := d.Store.Stat(m.Digest); err == nil && time.Since(in.LastUse) < freshUse {
		return
	}
	children, kind, err := registry.Children(m.MediaType, m.Content)
	if err == nil && kind != registry.KindIndex {
		for _, c := range children {
			d.Store.Touch(c.Digest)
			d.Store.CountFor(c.Digest, n.String())
		}
	}
	d.Store.CountFor(m.Digest, n.String())
	d.Store.Touch(m.Digest) // last: it is the smallest loss, and evicted after them
}
