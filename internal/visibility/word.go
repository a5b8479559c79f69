package visibility

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Word is what somebody knows of a repository, and tells others who cannot ask
// for themselves.
type Word struct {
	Public bool
	Age    time.Duration // since an upstream or a seeder said so
	Has    bool          // it is public, and has the digest that was asked about
}

// Vouch is the word that may be given on a repository and, where it is not
// empty, a digest: no older than may stand in here; false where nothing is known.
// A word that was heard is given on with its age, so that it does not live the
// longer for it.
func (p *Public) Vouch(n registry.Name, d digest.Digest) (Word, bool) {
	now := p.o.Now()
	v, known := p.verdict(n, now)
	if !known || !v.within(p.o.Stale(n.Upstream), now) {
		return Word{}, false
	}
	return Word{Public: v.Public, Age: now.Sub(v.Checked), Has: v.Public && d != "" && p.contents.of(n, d, p.isPublic)}, true
}

// hear has the word of peers, once for all who wait: whether they say that a
// repository is public and has a digest. nil where no word counts: what was
// private when this host was told last stays so.
func (p *Public) hear(n registry.Name, d digest.Digest) <-chan singleflight.Result {
	stale := p.o.Stale(n.Upstream)
	if v, known := p.verdict(n, p.o.Now()); p.o.Hear == nil || stale <= 0 || known && !v.Public {
		return nil
	}
	return p.words.DoChan(n.String()+"@"+d.String(), func() (any, error) {
		if !p.begin() {
			return nil, context.Canceled
		}
		defer p.wg.Done()
		ctx, cancel := context.WithTimeout(p.ctx, hearTimeout)
		defer cancel()
		w, ok := p.o.Hear(ctx, n, d)
		if !ok || !w.Public || w.Age < 0 || w.Age >= stale || d != "" && !w.Has {
			return false, nil
		}
		return p.believe(n, d, w), nil
	})
}

// believe notes a word. Whoever could ask meanwhile knows better; and a word is
// no proof that a repository has what a private one has, too.
func (p *Public) believe(n registry.Name, d digest.Digest, w Word) bool {
	now := p.o.Now()
	if !p.noteWord(n, verdict{Public: true, Checked: now.Add(-w.Age), Word: true}, now) {
		return false
	}
	if d != "" {
		p.contents.add(n, d, false)
	}
	return d == "" || p.contents.of(n, d, p.isPublic)
}

func (p *Public) noteWord(n registry.Name, word verdict, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, known := p.verdicts[n]
	switch {
	case known && !v.Public:
		return false
	case known && v.within(p.o.Stale(n.Upstream), now) && !(v.Word && word.Checked.After(v.Checked)):
		return true // ours is better
	case !known:
		p.log.Info("peers say that a repository is public; neither a seeder nor the upstream can be asked", zap.Stringer("repository", n))
	}
	p.setLocked(n, word)
	return true
}
