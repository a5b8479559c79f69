package seed

import (
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/events"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/registry"
)

// openEvents opens the queues of the endpoints that are told what happens; nil
// where there are none.
func openEvents(d *daemon.Daemon, c config.Seeder) (*events.Hub, error) {
	if c.Events == "" {
		return nil, nil
	}
	list, err := events.ReadEndpoints(c.Events)
	if err != nil {
		return nil, err
	}
	return events.Open(events.Options{
		Dir: filepath.Join(c.Data, "events"), Endpoints: list, Instance: d.Node.ID().String(),
		Log: d.Log.Named("events"), Registerer: d.Metrics, Namespace: "seeder",
	})
}

// endpointWarnings are about endpoints that do not take events.
type endpointWarnings struct{ hub atomic.Pointer[events.Hub] }

// status adds them; there are none until hub is set.
func (w *endpointWarnings) status(st *status.Status) {
	hub := w.hub.Load()
	if hub == nil {
		return
	}
	for _, s := range hub.States() {
		if s.Broken() {
			st.Warnings = append(st.Warnings, status.Warning{Code: "events-failing",
				Text:   fmt.Sprintf("endpoint %s does not take events, and %d wait: %s", s.Name, s.Queued, s.LastError),
				Remedy: "look at the endpoint and the way to it; `seeder events` shows more (docs/events.md)"})
		}
	}
}

// tellRequests is the registry handler's hook for what clients did.
func tellRequests(d *daemon.Daemon, hub *events.Hub) func(*http.Request, registry.Notice) {
	if hub == nil {
		return nil
	}
	return func(r *http.Request, n registry.Notice) {
		name := n.Name.String()
		if d.Resolver.IsLocal(n.Name) {
			name = n.Name.Repository
		}
		e := events.Event{Action: n.Action, Kind: n.Kind, Repository: n.Name.String(), Name: name,
			Tag: n.Tag, Digest: n.Digest, MediaType: n.MediaType, Size: n.Size,
			Host: r.Host, URL: contentURL(r, name, n), Method: r.Method, UserAgent: r.UserAgent()}
		if id, ok := auth.FromContext(r.Context()); ok {
			e.User = id.User
		}
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			e.Client = from.Addr().Unmap().String()
		}
		hub.Publish(e)
	}
}

// tellRemovals is the local repositories' hook for what a collection removed.
func tellRemovals(upstream string, hub *events.Hub) func(local.Removal) {
	if hub == nil {
		return nil
	}
	return func(m local.Removal) {
		n := registry.Name{Upstream: upstream, Repository: m.Repository}
		hub.Publish(events.Event{Action: events.Delete, Kind: m.Kind, Repository: n.String(), Name: m.Repository,
			Tag: m.Tag, Digest: m.Digest, Reason: m.Reason})
	}
}

// contentURL is where a client finds what a notice is about; "" for what is gone.
func contentURL(r *http.Request, name string, n registry.Notice) string {
	if n.Action == events.Delete || n.Digest == "" {
		return ""
	}
	u := *r.URL
	if u.Scheme == "" { // what stands before sets it where a trusted proxy told
		if u.Scheme = "http"; r.TLS != nil {
			u.Scheme = "https"
		}
	}
	u.Host, u.RawQuery = r.Host, ""
	u.Path, u.RawPath = "/v2/"+name+"/"+n.Kind+"s/"+n.Digest.String(), ""
	return u.String()
}
