package visibility

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// swarm says what its peers would.
type swarm struct {
	word  Word
	ok    bool
	asked int
}

func (s *swarm) hear(context.Context, registry.Name, digest.Digest) (Word, bool) {
	s.asked++
	return s.word, s.ok
}

func (w *world) among(s *swarm, file string) *Public {
	return NewPublic(Options{Ask: w.ask, Hear: s.hear, File: file, Stale: func(string) time.Duration { return 24 * time.Hour }})
}

func blob(d digest.Digest) upstream.Target { return upstream.Target{Blob: d} }

// contract 27: a peer's word opens what nobody can be asked about, and nothing
// else.
func TestWhichWordsCount(t *testing.T) {
	public := Word{Public: true, Age: time.Hour, Has: true}
	for name, tt := range map[string]struct {
		word   Word
		none   bool
		target upstream.Target
		setUp  func(*Public)
		want   upstream.Kind
		asked  int
	}{
		"public, and has it":                  {word: public, target: blob(blobA), asked: 1},
		"public, for the repository as such":  {word: Word{Public: true}, target: tag, asked: 1},
		"public, and does not have it":        {word: Word{Public: true}, target: blob(blobA), want: upstream.Unavailable, asked: 1},
		"private":                             {word: Word{Has: true}, target: blob(blobA), want: upstream.Unavailable, asked: 1},
		"nobody knows":                        {none: true, target: blob(blobA), want: upstream.Unavailable, asked: 1},
		"as old as may stand in":              {word: Word{Public: true, Age: 24*time.Hour - time.Second, Has: true}, target: blob(blobA), asked: 1},
		"too old":                             {word: Word{Public: true, Age: 24 * time.Hour, Has: true}, target: blob(blobA), want: upstream.Unavailable, asked: 1},
		"of the future":                       {word: Word{Public: true, Age: -time.Second, Has: true}, target: blob(blobA), want: upstream.Unavailable, asked: 1},
		"what this host knows to be private":  {word: public, target: blob(blobA), setUp: func(p *Public) { p.set(app, verdict{Checked: time.Now().Add(-time.Hour)}) }, want: upstream.Unavailable},
		"a digest of a private repository":    {word: public, target: blob(blobA), setUp: func(p *Public) { p.Prove(secret, blobA) }, want: upstream.Unavailable, asked: 1},
		"a new digest of what was public":     {word: public, target: blob(blobA), setUp: func(p *Public) { p.set(app, verdict{Public: true, Checked: time.Now().Add(-time.Hour)}) }, asked: 1},
		"what was public stands in by itself": {word: Word{}, target: tag, setUp: func(p *Public) { p.set(app, verdict{Public: true, Checked: time.Now().Add(-time.Hour)}) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w world
				w.set("lab/app", upstream.Unavailable)
				s := &swarm{word: tt.word, ok: !tt.none}
				p := w.among(s, "")
				defer p.Close()
				if tt.setUp != nil {
					tt.setUp(p)
				}
				want(t, p.Check(t.Context(), app, tt.target), tt.want)
				if s.asked != tt.asked {
					t.Errorf("peers were asked %d times, want %d", s.asked, tt.asked)
				}
			})
		})
	}
	t.Run("nothing may stand in", func(t *testing.T) {
		var w world
		w.set("lab/app", upstream.Unavailable)
		s := &swarm{word: public, ok: true}
		p := NewPublic(Options{Ask: w.ask, Hear: s.hear, Stale: func(string) time.Duration { return 0 }})
		defer p.Close()
		want(t, p.Check(t.Context(), app, tag), upstream.Unavailable)
		if _, ok := p.Vouch(app, ""); ok || s.asked != 0 {
			t.Error("a word counts, or is given")
		}
	})
}

// contract 27: whoever can tell is asked first, and again as long as there is
// only a word; what he says overrides it.
func TestAnswersOverrideWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.set("lab/app", upstream.Unavailable)
		s := &swarm{word: Word{Public: true, Has: true}, ok: true}
		p := w.among(s, "")
		defer p.Close()
		ctx := t.Context()
		p.Learn(app, blobB)
		want(t, p.Check(ctx, app, blob(blobA)), upstream.None)
		for range 3 { // remembered, and nobody is asked again at once
			want(t, p.Check(ctx, app, blob(blobA)), upstream.None)
			want(t, p.Check(ctx, app, blob(blobB)), upstream.None)
		}
		if s.asked != 1 || w.count() != 1 {
			t.Errorf("peers were asked %d times, the upstream %d times", s.asked, w.count())
		}
		w.set("lab/app", upstream.Denied)
		time.Sleep(silentFor)
		want(t, p.Check(ctx, app, blob(blobA)), upstream.Denied)
		w.set("lab/app", upstream.Unavailable)
		time.Sleep(time.Hour)
		want(t, p.Check(ctx, app, blob(blobA)), upstream.Unavailable)
		if s.asked != 1 {
			t.Error("peers were asked about what is private")
		}
		w.set("lab/app", upstream.None)
		want(t, p.Check(ctx, app, blob(blobA)), upstream.None)
	})
}

// contract 11: who is silent is waited for once, and an answer that comes late
// counts.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world{wait: 3 * time.Second}
		w.set("lab/app", upstream.Denied)
		s := &swarm{word: Word{Public: true, Has: true}, ok: true}
		p := w.among(s, "")
		defer p.Close()
		ctx := t.Context()
		took := func(atMost time.Duration, kind upstream.Kind) {
			t.Helper()
			began := time.Now()
			want(t, p.Check(ctx, app, blob(blobA)), kind)
			if d := time.Since(began); d > atMost {
				t.Errorf("took %v, want at most %v", d, atMost)
			}
		}
		took(patience, upstream.None)
		took(0, upstream.None)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		took(0, upstream.Denied) // it is private, as the upstream has said meanwhile

		time.Sleep(privateFor)
		w.set("lab/app", upstream.None)
		took(3*time.Second, upstream.None) // no word stands in for what was private
		time.Sleep(publicFor)
		took(patience, upstream.None)
		time.Sleep(3 * time.Second)
	})
}

// contract 27: what is given on is what is known, with its age, as long as it may
// stand in.
func TestVouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.set("lab/secret", upstream.Denied)
		s := &swarm{}
		file := filepath.Join(t.TempDir(), "visibility.json")
		p := w.among(s, file)
		ctx := t.Context()
		if _, ok := p.Vouch(app, ""); ok {
			t.Error("a word about what nobody asked for")
		}
		want(t, p.Check(ctx, app, blob(blobA)), upstream.None)
		want(t, p.Check(ctx, secret, tag), upstream.Denied)
		p.Prove(secret, blobB)
		p.Learn(app, blobB)
		time.Sleep(time.Hour)
		words := func(p *Public, age time.Duration) {
			t.Helper()
			for _, tt := range []struct {
				n    registry.Name
				d    digest.Digest
				want Word
			}{
				{app, "", Word{Public: true, Age: age}},
				{app, blobA, Word{Public: true, Age: age, Has: true}},
				{app, blobB, Word{Public: true, Age: age}}, // a private repository has it, too
			} {
				if got, ok := p.Vouch(tt.n, tt.d); got != tt.want || !ok {
					t.Errorf("%s %s: %+v %v, want %+v", tt.n, tt.d, got, ok, tt.want)
				}
			}
		}
		words(p, time.Hour)
		if got, ok := p.Vouch(secret, blobB); got != (Word{Age: time.Hour}) || !ok {
			t.Errorf("private: %+v %v", got, ok)
		}

		// A word goes on with its age, also over a restart of who heard it.
		w.set("lab/app", upstream.Unavailable)
		s.word, s.ok = Word{Public: true, Age: time.Hour, Has: true}, true
		p.Close()
		file = filepath.Join(t.TempDir(), "visibility.json")
		heard := w.among(s, file)
		want(t, heard.Check(ctx, app, blob(blobA)), upstream.None)
		heard.Close()
		s.ok = false
		time.Sleep(time.Hour)
		heard = w.among(s, file)
		heard.Prove(secret, blobB)
		heard.Learn(app, blobA, blobB)
		words(heard, 2*time.Hour)
		want(t, heard.Check(ctx, app, blob(blobA)), upstream.None)
		time.Sleep(22 * time.Hour)
		if _, ok := heard.Vouch(app, ""); ok {
			t.Error("a word that is too old is given on")
		}
		want(t, heard.Check(ctx, app, blob(blobA)), upstream.Unavailable)
		heard.Close()
	})
}

// contract 24: however many repositories name a digest, the private one that has
// it is not forgotten.
func TestManyOwners(t *testing.T) {
	var c contents
	c.add(secret, blobA, false)
	for i := range 2 * maxOwners {
		c.add(registry.Name{Upstream: "up.test", Repository: string(rune('a' + i))}, blobA, false)
	}
	isPublic := func(n registry.Name) bool { return n != secret }
	if c.of(registry.Name{Upstream: "up.test", Repository: "b"}, blobA, isPublic) {
		t.Error("a private digest counts as a public repository's")
	}
	for i := range 2 * maxOwners {
		n := registry.Name{Upstream: "up.test", Repository: string(rune('a' + i))}
		if c.add(n, blobA, true); !c.of(n, blobA, isPublic) {
			t.Errorf("%s was seen to have it", n)
		}
	}
	if n := len(c.owners[blobA]); n != maxOwners || !slices.ContainsFunc(c.owners[blobA], func(o owner) bool { return o.proved }) {
		t.Errorf("%d owners", n)
	}
}
