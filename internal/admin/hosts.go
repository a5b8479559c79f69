package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/samara-p2p/samara/internal/prewarm"
)

// Hosts has hosts fetch images ahead (*prewarm.Manager).
type Hosts interface {
	// Order errors: *prewarm.BadRequest, prewarm.ErrMany.
	Order(r prewarm.Request, user string) (prewarm.Order, error)
	Orders() []prewarm.Order
	// Get waits for an order to be no longer running. Errors: prewarm.ErrNotFound,
	// as those of Cancel and RemoveSchedule.
	Get(ctx context.Context, id string, wait time.Duration) (prewarm.Order, error)
	Cancel(id string) (prewarm.Order, error)
	Schedules() []prewarm.Schedule
	// SetSchedule errors: *prewarm.BadRequest.
	SetSchedule(s prewarm.Schedule, user string) (prewarm.Schedule, error)
	RemoveSchedule(name string) (prewarm.Schedule, error)
}

// Orders are those that are open, and those that ended lately, the latest first.
// Hosts of each are left out.
type Orders struct {
	Orders []prewarm.Order `json:"orders"`
}

// Schedules are all of them, by name.
type Schedules struct {
	Schedules []prewarm.Schedule `json:"schedules"`
}

// ScheduleRequest is a schedule but for its name, which the path has.
type ScheduleRequest struct {
	Cron      string   `json:"cron"`
	Images    []string `json:"images"`
	Platforms []string `json:"platforms,omitempty"`
	prewarm.Target
	Rate   int64  `json:"rate,omitempty"`
	Within string `json:"within,omitempty"`
}

var errNoHosts = &Error{http.StatusNotFound, "this seeder gives hosts no orders"}

func (s *Server) order(r *http.Request, in prewarm.Request) (prewarm.Order, error) {
	if s.o.Hosts == nil {
		return prewarm.Order{}, errNoHosts
	}
	return s.o.Hosts.Order(in, s.o.Caller(r).User)
}

func (s *Server) orders(*http.Request, none) (Orders, error) {
	if s.o.Hosts == nil {
		return Orders{}, errNoHosts
	}
	return Orders{s.o.Hosts.Orders()}, nil
}

// getOrder answers at once, or with ?wait=SECONDS when the order is no longer
// running, at the latest after these.
func (s *Server) getOrder(r *http.Request, _ none) (prewarm.Order, error) {
	wait, err := waitOf(r)
	if err != nil {
		return prewarm.Order{}, err
	}
	if s.o.Hosts == nil {
		return prewarm.Order{}, errNoHosts
	}
	return s.o.Hosts.Get(r.Context(), r.PathValue("id"), wait)
}

func (s *Server) cancelOrder(r *http.Request, _ none) (prewarm.Order, error) {
	if s.o.Hosts == nil {
		return prewarm.Order{}, errNoHosts
	}
	return s.o.Hosts.Cancel(r.PathValue("id"))
}

func (s *Server) schedules(*http.Request, none) (Schedules, error) {
	if s.o.Hosts == nil {
		return Schedules{}, errNoHosts
	}
	return Schedules{s.o.Hosts.Schedules()}, nil
}

func (s *Server) setSchedule(r *http.Request, in ScheduleRequest) (prewarm.Schedule, error) {
	if s.o.Hosts == nil {
		return prewarm.Schedule{}, errNoHosts
	}
	return s.o.Hosts.SetSchedule(prewarm.Schedule{Name: r.PathValue("name"), Cron: in.Cron, Images: in.Images, Platforms: in.Platforms,
		Target: in.Target, Rate: in.Rate, Within: in.Within}, s.o.Caller(r).User)
}

func (s *Server) removeSchedule(r *http.Request, _ none) (prewarm.Schedule, error) {
	if s.o.Hosts == nil {
		return prewarm.Schedule{}, errNoHosts
	}
	return s.o.Hosts.RemoveSchedule(r.PathValue("name"))
}
