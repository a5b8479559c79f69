package visibility

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

// maxMemory bounds what is read of the file, in bytes.
const maxMemory = 64 << 20

// load reads what an earlier process knew. Without it repositories are asked
// about anew.
func (p *Public) load() {
	if p.o.File == "" {
		return
	}
	saved := map[string]verdict{}
	b, err := os.ReadFile(p.o.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err == nil && len(b) > maxMemory:
		err = errors.New("it is too large")
	case err == nil:
		err = json.Unmarshal(b, &saved)
	}
	if err != nil {
		p.log.Warn("what is known of the visibility of repositories cannot be read; they are asked about anew",
			zap.String("file", p.o.File), zap.Error(err))
		return
	}
	for name, v := range saved {
		if n, err := registry.ParseName(name); err == nil {
			p.verdicts[n] = v
		}
	}
}

// keepSaving saves what is new soon, as a process may be killed and come back
// when nobody can be asked; what was only confirmed, now and then.
func (p *Public) keepSaving() {
	t := time.NewTicker(saveNew)
	defer t.Stop()
	saved := p.o.Now()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-t.C:
			p.mu.Lock()
			fresh := p.fresh
			p.mu.Unlock()
			if now := p.o.Now(); fresh || now.Sub(saved) >= saveEvery {
				p.save()
				saved = now
			}
		}
	}
}

// save keeps verdicts for the next start, when some are new.
func (p *Public) save() {
	p.mu.Lock()
	saved := make(map[string]verdict, len(p.verdicts))
	for n, v := range p.verdicts {
		saved[n.String()] = v
	}
	dirty := p.dirty
	p.dirty, p.fresh = false, false
	p.mu.Unlock()
	if p.o.File == "" || !dirty {
		return
	}
	b, err := json.Marshal(saved)
	if err == nil {
		err = renameio.WriteFile(p.o.File, b, 0o600)
	}
	if err != nil {
		p.log.Warn("cannot keep what is known of the visibility of repositories", zap.String("file", p.o.File), zap.Error(err))
	}
}
