package seed

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

const (
	maxImages  = 32 // platforms of a tag that are told of
	maxHolders = 50 // hosts of an image that are named
)

// Repository implements admin.Viewer.
func (v *viewer) Repository(ctx context.Context, name string, page admin.Page) (admin.Repository, error) {
	n, err := named(v.d, name)
	if err != nil {
		return admin.Repository{}, err
	}
	out := admin.Repository{Repository: n.String(), Local: v.d.Resolver.IsLocal(n), Tags: []admin.Tag{}}
	tags := v.d.Tags.List(n)
	if out.Local {
		if v.local == nil {
			return out, errNoRepository(n)
		}
		if tags, err = v.local.Tags(ctx, n, 0, ""); err != nil {
			return out, err
		}
	}
	tags = slices.DeleteFunc(tags, func(t string) bool { return !strings.Contains(t, page.Match) })
	slices.Sort(tags)
	out.Total = len(tags)
	complete := map[digest.Digest]bool{}
	for _, in := range v.d.Store.Infos() {
		complete[in.Digest] = in.Complete
	}
	l := v.look()
	for _, t := range tags[min(page.Offset, len(tags)):min(page.Offset+page.Limit, len(tags))] {
		tag := admin.Tag{Tag: t, Images: []admin.TagImage{}}
		d, checked := v.tagged(n, t)
		tag.Digest, tag.Checked = d.String(), checked
		v.images(&tag, d, "", complete, l, 0)
		out.Tags = append(out.Tags, tag)
	}
	return out, ctx.Err()
}

func errNoRepository(n registry.Name) error {
	return &admin.Error{Status: 404, Message: "there is no repository " + n.String()}
}

// tagged is what a tag means, and when an upstream said so.
func (v *viewer) tagged(n registry.Name, tag string) (digest.Digest, time.Time) {
	if v.d.Resolver.IsLocal(n) {
		d, _ := v.local.Tagged(n.Repository, tag)
		return d, time.Time{}
	}
	e, _ := v.d.Tags.Get(n, tag)
	return e.Digest, e.Checked.UTC()
}

// images adds the images of a manifest that is here: of an index, those of its
// manifests that are.
func (v *viewer) images(tag *admin.Tag, d digest.Digest, platform string, complete map[digest.Digest]bool, l *look, depth int) {
	if depth > 3 || len(tag.Images) >= maxImages || d == "" {
		return
	}
	content, mediaType, err := v.d.Engine.Held(d, registry.MaxManifestSize)
	if err != nil {
		return // nobody has pulled it for this platform
	}
	children, kind, err := registry.Children(mediaType, content)
	if err != nil || kind == registry.KindUnknown {
		return
	}
	if kind == registry.KindIndex {
		for _, c := range children {
			p := ""
			if c.Platform != nil {
				p = strings.Trim(strings.Join([]string{c.Platform.OS, c.Platform.Architecture, c.Platform.Variant}, "/"), "/")
			}
			v.images(tag, c.Digest, p, complete, l, depth+1)
		}
		return
	}
	im := admin.TagImage{Platform: platform, Digest: d.String(), Holders: []admin.Holder{}}
	set := []digest.Digest{}
	for _, c := range children {
		if registry.Foreign(c) || slices.Contains(set, c.Digest) {
			continue
		}
		set = append(set, c.Digest)
		im.Size += c.Size
		im.Blobs++
		if complete[c.Digest] {
			im.Here++
		}
	}
	h := v.board.Holders(maxHolders, set)[0]
	im.All, im.Some = h.All, h.Some
	for _, id := range h.Peers {
		if host, ok := l.names[id]; ok {
			im.Holders = append(im.Holders, host)
		}
	}
	tag.Images = append(tag.Images, im)
}

// Eviction implements admin.Viewer.
func (v *viewer) Eviction(n int64) admin.Eviction {
	infos, held := v.d.Store.Evictable(n)
	out := admin.Eviction{Asked: n, Blobs: len(infos), Repositories: []admin.EvictedFromThese{}}
	by := map[string]*admin.EvictedFromThese{}
	for i, in := range infos {
		out.Bytes += held[i]
		for _, source := range v.known(in) {
			r := entry(by, source)
			r.Repository = source
			r.Bytes, r.Blobs, r.LastUse = r.Bytes+held[i], r.Blobs+1, later(r.LastUse, in.LastUse.UTC())
		}
	}
	for _, r := range by {
		out.Repositories = append(out.Repositories, *r)
	}
	slices.SortFunc(out.Repositories, func(a, b admin.EvictedFromThese) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Repository, b.Repository))
	})
	return out
}

// known are the repositories of content; "" where none is.
func (v *viewer) known(in store.Info) []string {
	if s := v.sources(in); len(s) > 0 {
		return s
	}
	return []string{""}
}
