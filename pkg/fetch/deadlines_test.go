package fetch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	dto "github.com/prometheus/client_model/go"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// passed is how often a deadline has.
func (b *bubble) passed(deadline string) int {
	var m dto.Metric
	if err := b.metrics.deadlines.WithLabelValues(deadline).Write(&m); err != nil {
		b.t.Fatal(err)
	}
	return int(m.Counter.GetValue())
}

// holder makes a neighbour that has all of a blob whose hashes are signed, and
// does with asks for its pieces as told.
func (b *bubble) holder(sg signer, w Want, refuse func(context.Context) error) {
	b.net.mu.Lock()
	b.net.refuse = refuse
	b.net.mu.Unlock()
	sg.up(b)
	if _, err := b.want(w); err != nil {
		b.t.Fatal(err)
	}
	s := b.find(w.Digest)
	b.Message(sg.id, p2p.Runs{Digest: w.Digest, Envelopes: [][]byte{sg.run(w, 0, s.geom.Count(), false)}})
	b.down(sg.id)
	b.Message(b.neighbour(1), p2p.State{Digest: w.Digest, Size: w.Size, Have: piece.FullBitfield(s.geom.Count()).Bytes(), Complete: true})
	synctest.Wait()
}

// contract 13: a source that stands still is given up after Options.Switch, and a
// client is told after Options.Gap that nothing comes, whatever these are.
func TestDeadlines(t *testing.T) {
	for _, test := range []struct{ turn, gap time.Duration }{
		{0, 0}, {500 * time.Millisecond, 4 * time.Second}, {3 * time.Second, 20 * time.Second},
	} {
		t.Run(fmt.Sprint(test.turn, test.gap), func(t *testing.T) {
			sg := newSigner(t)
			inBubble(t, func(o *Options) {
				o.Trusted = func(p peer.ID) bool { return p == sg.id }
				o.Switch, o.Gap = test.turn, test.gap
			}, func(t *testing.T, b *bubble) {
				turn, gap := test.turn, test.gap
				if turn == 0 {
					turn, gap = 2*time.Second, 10*time.Second // the defaults
				}
				w := b.wish(1, 2*mib)
				b.holder(sg, w, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
				began := time.Now()
				failed := make(chan time.Duration, 1)
				go func() {
					r, _, err := b.Open(t.Context(), t.Context(), w)
					if err == nil {
						r.Close()
						t.Error("it was opened")
					} else if !errors.Is(err, ErrUnavailable) {
						t.Error(err)
					}
					failed <- time.Since(began)
				}()
				time.Sleep(turn - 50*time.Millisecond)
				synctest.Wait()
				if n := b.passed("switch"); n != 0 {
					t.Errorf("%d sources given up before %v", n, turn)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if n := b.passed("switch"); n == 0 {
					t.Errorf("no source given up after %v", turn)
				}
				// That signers are no longer waited for is news of the holder, which counts as life.
				if took := <-failed; took < gap-time.Second || took > gap+signersGrace {
					t.Errorf("told after %v, want %v", took, gap)
				}
			})
		})
	}
}

// contract 13: a body in which nothing moves is cut after Options.Gap, though
// its sources show life; one whose bytes are arriving, slowly, three times later.
func TestGap(t *testing.T) {
	for _, gap := range []time.Duration{10 * time.Second, 4 * time.Second} {
		for deadline, want := range map[string]time.Duration{"gap": gap, "slow": 3 * gap} {
			t.Run(fmt.Sprint(deadline, gap), func(t *testing.T) {
				sg := newSigner(t)
				inBubble(t, func(o *Options) {
					o.Trusted, o.Gap, o.Switch = func(p peer.ID) bool { return p == sg.id }, gap, time.Second
				}, func(t *testing.T, b *bubble) {
					w := b.wish(1, 2*mib)
					b.holder(sg, w, func(context.Context) error { return &p2p.BusyError{After: 100 * time.Millisecond} })
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					defer cancel()
					r, _, err := b.Open(ctx, t.Context(), w)
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
					s := b.find(w.Digest)
					done := make(chan struct{})
					go func() {
						defer close(done)
						for life := r.(*reader).ctx; sleep(life, 500*time.Millisecond); {
							if deadline == "slow" { // bytes of some piece, never the last of them
								s.moved.Store(int64(b.now()))
							}
						}
					}()
					began := time.Now()
					_, err = r.Read(make([]byte, 10))
					if took := time.Since(began); took < want || took > want+time.Second {
						t.Errorf("took %v, want %v", took, want)
					}
					if !errors.Is(err, ErrStalled) || !errors.Is(err, ErrUnavailable) {
						t.Errorf("error %v", err)
					}
					if n := b.passed(deadline); n != 1 {
						t.Errorf("%s passed %d times", deadline, n)
					}
					r.Close()
					<-done
				})
			})
		}
	}
}
