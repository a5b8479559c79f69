package daemon

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/samara-p2p/samara/internal/scrub"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// startScrub has the store checked from now on.
func (d *Daemon) startScrub() error {
	c := d.p.Config
	s, err := scrub.Start(scrub.Options{
		Store: d.Store, Repair: d.repair, Every: c.ScrubEvery, Rate: int64(c.ScrubRate), File: filepath.Join(c.Data, "scrub.json"),
		Log: d.Log.Named("scrub"), Registerer: d.Metrics, Namespace: d.p.Name,
	})
	if err != nil {
		return explainData(c.Data, err)
	}
	d.atClose(s.Close)
	d.scrub.Store(s)
	d.Admin.Handle("POST /v1/scrub", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !d.ScrubNow() {
			http.Error(w, "a round is under way; repairs that wait are tried now", http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	return nil
}

// ScrubNow begins a round, and has repairs tried that wait; false where a round is
// under way.
func (d *Daemon) ScrubNow() bool {
	s := d.scrub.Load()
	return s != nil && s.Now()
}

// repair fetches a damaged blob again: from each source that is known, then
// from peers.
func (d *Daemon) repair(ctx context.Context, in store.Info) error {
	names := in.Meta.Sources
	if k, ok := d.Catalog.Find(in.Digest); ok { // a cached small blob has no sources of its own
		names = append(names[:len(names):len(names)], k.Name.String())
	}
	w := fetch.Want{Digest: in.Digest, Size: in.Size}
	for _, name := range names {
		src := fetch.ParseSource(name)
		_, upstream := d.Upstream.URL(src.Upstream)
		switch {
		case !upstream: // what is pushed may be kept for good elsewhere, too
			w.Source = src
		case !registry.IsManifestType(in.Meta.MediaType):
			w.Source = src
			return d.Engine.Repair(ctx, w)
		case d.repairManifest(ctx, in, name) == nil: // no registry gives it as a blob
			return nil
		}
	}
	return d.Engine.Repair(ctx, w)
}

func (d *Daemon) repairManifest(ctx context.Context, in store.Info, name string) error {
	n, err := registry.ParseName(name)
	if err != nil {
		return err
	}
	m, err := d.Upstream.Manifest(ctx, n.Upstream, n.Repository, in.Digest.String(), registry.ManifestTypes())
	if err != nil {
		return err
	}
	return d.Store.Put(in.Digest, m.Content, store.Meta{})
}

// scrubStatus describes what is checked, and what is damaged.
func (d *Daemon) scrubStatus(st *status.Status) {
	s := d.scrub.Load()
	if s == nil {
		return
	}
	x := s.Status()
	st.Scrub = status.Scrub{Running: x.Running, Began: x.Began, Ended: x.Ended, Next: x.Next,
		Blobs: x.Blobs, Bytes: x.Bytes, Total: x.Total, Found: x.Damaged, Damaged: []status.Damaged{}}
	if x.Err != nil {
		st.Scrub.Error = x.Err.Error()
		st.Warnings = append(st.Warnings, status.Warning{Code: "scrub-stopped", Text: "the check of what lies on the disk has stopped: " + st.Scrub.Error,
			Remedy: "look at the disk and its file system (dmesg, smartctl); it goes on within the hour"})
	}
	kept := 0
	for _, r := range x.Repairs {
		y := status.Damaged{Digest: r.Info.Digest.String(), Size: r.Info.Size, Sources: r.Info.Meta.Sources, Kept: r.Info.Kept, Tries: r.Tries, Next: r.Next}
		if r.Err != nil {
			y.Error = r.Err.Error()
		}
		if r.Info.Kept {
			kept++
		}
		st.Scrub.Damaged = append(st.Scrub.Damaged, y)
	}
	if n := len(x.Repairs); n > 0 {
		remedy := "it is fetched again as soon as a source has it"
		if kept > 0 {
			remedy = "push again what was pushed here, or let a host run that has pulled it; the rest is fetched again as soon as a source has it"
		}
		st.Warnings = append(st.Warnings, status.Warning{Code: "content-damaged", Remedy: remedy,
			Text: fmt.Sprintf("content is damaged on the disk and not served: %d in all, %d pushed here, the first is %s of %v", n, kept, x.Repairs[0].Info.Digest, x.Repairs[0].Info.Meta.Sources)})
	}
}
