package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	syncEvery = time.Second
	maxField  = 512 // bytes of a text that a client chose
)

// Options of a Hub. Dir and Endpoints are required.
type Options struct {
	Dir       string // of the queues
	Endpoints []Endpoint
	Instance  string // names this seeder to the endpoints

	Log        *zap.Logger           // nil: no logs
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names

	transport http.RoundTripper // of tests; nil: the network
}

// Hub hands events to endpoints. Safe for concurrent use.
type Hub struct {
	o         Options
	endpoints []*endpoint
	m         *metrics
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

// Open opens the queues and begins to deliver from them.
func Open(o Options) (*Hub, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	h := &Hub{o: o}
	for _, c := range o.Endpoints {
		q, err := openQueue(filepath.Join(o.Dir, c.Name), int64(c.Queue)<<20)
		if err != nil {
			for _, e := range h.endpoints {
				err = errors.Join(err, e.q.close())
			}
			return nil, fmt.Errorf("events for %s: %w", c.Name, err)
		}
		h.endpoints = append(h.endpoints, newEndpoint(c, q, o))
	}
	h.m = newMetrics(h)
	h.warnOfLeftovers()
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	for _, e := range h.endpoints {
		e.m = h.m
		for _, reason := range []string{"full", "disk", "old", "damaged", "refused"} {
			h.m.dropped.WithLabelValues(e.c.Name, reason) // what comes with its first event has never grown, for an alert
		}
		h.wg.Go(func() { e.run(ctx) })
	}
	h.wg.Go(func() { h.flush(ctx) })
	return h, nil
}

// warnOfLeftovers names queues of endpoints that are gone.
func (h *Hub) warnOfLeftovers() {
	entries, err := os.ReadDir(h.o.Dir)
	if err != nil {
		return // none
	}
	for _, d := range entries {
		if !slices.ContainsFunc(h.endpoints, func(e *endpoint) bool { return e.c.Name == d.Name() }) {
			h.o.Log.Warn("events are kept for an endpoint that is not configured any more; remove its directory if they are not needed",
				zap.String("path", filepath.Join(h.o.Dir, d.Name())))
		}
	}
}

// Publish enters an event in the queue of each endpoint that wants it. The ID is
// given here, and the time, where it has none.
func (h *Hub) Publish(e Event) {
	e.ID = rand.Text()
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	for _, s := range []*string{&e.MediaType, &e.User, &e.Host, &e.URL, &e.UserAgent} {
		if len(*s) > maxField {
			*s = (*s)[:maxField] + "…"
		}
	}
	var line []byte
	for _, ep := range h.endpoints {
		if !ep.c.wants(&e) {
			continue
		}
		if line == nil {
			var err error
			if line, err = json.Marshal(e); err != nil {
				h.o.Log.Error("an event cannot be written down", zap.Error(err))
				return
			}
			line = append(line, '\n')
		}
		ep.enter(line)
	}
}

// flush brings queues to the disk.
func (h *Hub) flush(ctx context.Context) {
	t := time.NewTicker(syncEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			for _, e := range h.endpoints {
				if err := e.q.sync(); err != nil {
					e.log.Error("events cannot be flushed to the disk", zap.Error(err))
				}
			}
		}
	}
}

// Close ends deliveries; what is not delivered stays in the queues.
func (h *Hub) Close() {
	h.cancel()
	h.wg.Wait()
	for _, e := range h.endpoints {
		e.client.CloseIdleConnections()
		if err := e.q.close(); err != nil {
			e.log.Error("closing a queue of events", zap.Error(err))
		}
	}
}

// State is how an endpoint does.
type State struct {
	Name      string    `json:"name"`
	Format    string    `json:"format"`
	Queued    uint64    `json:"queued"`
	Bytes     int64     `json:"bytes"`
	Oldest    time.Time `json:"oldest,omitzero"` // of those queued
	Delivered uint64    `json:"delivered"`       // since the start
	Dropped   uint64    `json:"dropped"`
	Failing   int       `json:"failing"` // deliveries that failed one after the other
	LastError string    `json:"lastError,omitempty"`
	NextTry   time.Time `json:"nextTry,omitzero"`
}

// Broken tells whether the endpoint is only tried once a minute.
func (s State) Broken() bool { return s.Failing >= breakAfter }

// States of the endpoints, as configured.
func (h *Hub) States() []State {
	list := make([]State, len(h.endpoints))
	for i, e := range h.endpoints {
		list[i] = e.status()
	}
	return list
}
