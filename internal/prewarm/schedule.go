package prewarm

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	"go.uber.org/zap"
)

const maxSchedules = 100

var scheduleName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// schedule is one, with what its cron expression means.
type schedule struct {
	Schedule
	spec cron.Schedule
	due  time.Time // the next run
}

// parse checks a schedule. Errors: *BadRequest.
func (s *schedule) parse(now time.Time) (err error) {
	if !scheduleName.MatchString(s.Name) {
		return &BadRequest{fmt.Sprintf("name: %.80q is not of a-z, 0-9, '.', '_' and '-'", s.Name)}
	}
	if s.spec, err = cron.ParseStandard(s.Cron); err != nil {
		return &BadRequest{fmt.Sprintf("cron: %v; want five fields like \"0 5 * * 1-5\", or @daily", err)}
	}
	within, err := s.within()
	if err != nil {
		return err
	}
	r := s.request(now, within)
	return r.check(now)
}

func (s *schedule) within() (time.Duration, error) {
	if s.Within == "" {
		return defaultBy, nil
	}
	d, err := time.ParseDuration(s.Within)
	if err != nil || d < time.Minute || d > longestBy {
		return 0, &BadRequest{fmt.Sprintf("within: %.40q is no time like 6h, of a minute or more", s.Within)}
	}
	return d, nil
}

func (s *schedule) request(now time.Time, within time.Duration) Request {
	return Request{Images: s.Images, Platforms: s.Platforms, Target: s.Target, Rate: s.Rate, By: now.Add(within)}
}

func (s *schedule) look() Schedule {
	v := s.Schedule
	v.Next = s.due
	return v
}

// Schedules are all of them, by name.
func (m *Manager) Schedules() []Schedule {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []Schedule{}
	for _, s := range m.schedules {
		list = append(list, s.look())
	}
	return list
}

// SetSchedule makes a schedule, or replaces the one of that name. Errors:
// *BadRequest, or that it cannot be kept.
func (m *Manager) SetSchedule(v Schedule, user string) (Schedule, error) {
	now := time.Now()
	s := &schedule{Schedule: v}
	s.User, s.Last, s.LastOrder, s.Next = user, time.Time{}, "", time.Time{}
	if err := s.parse(now.UTC()); err != nil {
		return Schedule{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.schedules
	list := slices.Clone(before)
	if i := slices.IndexFunc(list, func(o *schedule) bool { return o.Name == v.Name }); i >= 0 {
		s.Last, s.LastOrder = list[i].Last, list[i].LastOrder
		list[i] = s
	} else if len(list) >= maxSchedules {
		return Schedule{}, &BadRequest{fmt.Sprintf("there are %d schedules already", maxSchedules)}
	} else {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *schedule) int { return strings.Compare(a.Name, b.Name) })
	s.due = s.spec.Next(now)
	m.schedules = list
	if err := m.save(); err != nil {
		m.schedules = before
		return Schedule{}, err
	}
	return s.look(), nil
}

// RemoveSchedule removes one; orders that it made go on. Errors: ErrNotFound.
func (m *Manager) RemoveSchedule(name string) (Schedule, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.schedules, func(s *schedule) bool { return s.Name == name })
	if i < 0 {
		return Schedule{}, ErrNotFound
	}
	v := m.schedules[i].look()
	m.schedules = slices.Delete(m.schedules, i, i+1)
	return v, m.save()
}

// runSchedules gives the orders that are due. An order of the same schedule that is
// still open gives way: the new one is for what its images mean now.
func (m *Manager) runSchedules(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.schedules {
		if s.due.After(now) {
			continue
		}
		within, err := s.within()
		if err != nil {
			continue // it was checked
		}
		for _, x := range m.orders {
			if x.Schedule == s.Name {
				m.cancel(x)
			}
		}
		v, err := m.order(s.request(now, within), s.User, s.Name, now)
		if err != nil {
			m.o.Log.Error("a scheduled prewarm was not begun", zap.String("schedule", s.Name), zap.Error(err))
			m.m.ended.WithLabelValues(Failed).Inc()
		} else {
			s.LastOrder = v.ID
		}
		s.Last, s.due = now, s.spec.Next(now.Local())
		m.dirty = true
	}
}

// resume finds when a schedule runs next: at once where a run was missed whose
// deadline has not passed.
func (s *schedule) resume(now time.Time) {
	s.due = s.spec.Next(now)
	within, err := s.within()
	if err != nil || s.Last.IsZero() {
		return
	}
	if missed := s.spec.Next(s.Last.Local()); !missed.After(now) && missed.Add(within).After(now) {
		s.due = now
	}
}
