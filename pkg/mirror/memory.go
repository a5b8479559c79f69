package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/daemon"
)

// maxMemory bounds what is read of seeder.json, in bytes.
const maxMemory = 4 << 20

// remembered is one seeder in DATA/seeder.json, by its URL.
type remembered struct {
	Introduction *daemon.Introduction `json:"introduction"`
}

// load reads seeder.json. One that is not there, or another --seeder-id's, is
// no error.
func (s *seeders) load() error {
	st, err := os.Stat(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Size() > maxMemory {
		return fmt.Errorf("it has %d bytes", st.Size())
	}
	b, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	var saved map[string]*remembered
	if err := json.Unmarshal(b, &saved); err != nil {
		return err
	}
	for _, k := range s.list {
		r := saved[k.url]
		if r == nil || r.Introduction == nil || s.c.SeederID != "" && r.Introduction.PeerID != s.c.SeederID {
			continue
		}
		if _, err := r.Introduction.AddrInfo(); err != nil {
			return err
		}
		k.in = r.Introduction
	}
	return nil
}

// save keeps what is known for the next start.
func (s *seeders) save() {
	saved := make(map[string]*remembered)
	s.mu.Lock()
	for _, k := range s.list {
		if k.in != nil {
			saved[k.url] = &remembered{k.in}
		}
	}
	s.mu.Unlock()
	b, err := json.MarshalIndent(saved, "", "  ")
	if err == nil {
		err = renameio.WriteFile(s.file, append(b, '\n'), 0o600)
	}
	if err != nil {
		s.log.Warn("cannot keep what the seeder said; without it this peerd needs the seeder at its next start",
			zap.String("file", s.file), zap.Error(err))
	}
}
