package prewarm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"
)

// maxFile bounds what is read back, in bytes.
const maxFile = 256 << 20

// kept is what the file holds.
type kept struct {
	Next      int        `json:"next"`
	Orders    []Order    `json:"orders"`
	Schedules []Schedule `json:"schedules"`
}

// load reads the file. One that is not there is no error.
func (m *Manager) load() error {
	st, err := os.Stat(m.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var b []byte
	if err == nil && st.Size() > maxFile {
		err = fmt.Errorf("it has %d bytes", st.Size())
	}
	if err == nil {
		b, err = os.ReadFile(m.o.File)
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return fmt.Errorf("orders and schedules of prewarms cannot be read: %s: %w; mend it, or move it away to begin without any", m.o.File, err)
	}
	m.next = max(k.Next, 1)
	for _, o := range k.Orders {
		for i := range o.Hosts {
			if o.Hosts[i].State == Running || o.Hosts[i].State == Queued {
				o.Hosts[i].State = Waiting
			}
		}
		m.orders = append(m.orders, &order{Order: o})
	}
	now := time.Now()
	for _, v := range k.Schedules {
		s := &schedule{Schedule: v}
		if err := s.parse(now.UTC()); err != nil {
			return fmt.Errorf("%s: schedule %s: %w", m.o.File, v.Name, err)
		}
		s.resume(now)
		m.schedules = append(m.schedules, s)
	}
	return nil
}

// save writes the file. The lock is held.
func (m *Manager) save() error {
	k := kept{Next: m.next, Orders: []Order{}, Schedules: []Schedule{}}
	for _, x := range m.orders {
		k.Orders = append(k.Orders, x.Order)
	}
	for _, s := range m.schedules {
		k.Schedules = append(k.Schedules, s.Schedule)
	}
	b, err := json.Marshal(k)
	if err == nil {
		err = renameio.WriteFile(m.o.File, append(b, '\n'), 0o600)
	}
	if err == nil {
		m.dirty, m.failing = false, false
		return nil
	}
	err = fmt.Errorf("orders of prewarms cannot be kept: %s: %w", m.o.File, err)
	if !m.failing {
		m.failing = true
		m.o.Log.Error("a restart would forget what was ordered last", zap.Error(err))
	}
	return err
}
