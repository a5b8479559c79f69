package clients

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// Restart is what happens to a daemon in the middle of a pull, on purpose.
type Restart string

// What a restart may be. No pull fails by it, whatever the client.
const (
	peerdUpgraded  Restart = "peerd-upgraded" // a new process takes over from the node's peerd
	peerdTwice     Restart = "peerd-upgraded-twice"
	peerdStopped   Restart = "peerd-stopped" // it is stopped in good order, and started again when it has ended
	seederUpgraded Restart = "seeder-upgraded"
)

// restarts are conditions in which seeder and peer are slow: a pull takes long
// enough.
func restarts() []Condition {
	var all []Condition
	for _, r := range []Restart{peerdUpgraded, peerdTwice, peerdStopped, seederUpgraded} {
		all = append(all, Condition{Name: string(r), Restart: r, Peer: &Trouble{How: Slow, Rate: slowly}, Seeder: &Trouble{How: Slow, Rate: slowly}})
	}
	return all
}

// stopWithin is longer than the daemon's grace.
const stopWithin = 40 * time.Second

// pullAndRestart pulls, and restarts a daemon when the node's peerd has a third of
// the layers. Struck is how often that was while the client pulled.
func (r *Row) pullAndRestart(ctx context.Context, c Condition, repo, ref string, cell *Cell) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		cell.Worked, cell.Seconds, cell.Reason = pull(ctx, r.mirrored, repo, ref)
	}()
	pulling := func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
	err := lab.Eventually(ctx, func() error {
		st, err := r.w.peerd.Status(ctx)
		if err != nil {
			return err
		}
		if pulling() && st.Bytes.FromPeers+st.Bytes.FromSeeder < cell.Image/3 {
			return errors.New("not a third yet")
		}
		return nil
	})
	times := 1
	if c.Restart == peerdTwice {
		times = 2
	}
	for range times {
		if err == nil && pulling() {
			cell.Struck++
			err = r.w.restart(ctx, c.Restart)
		}
	}
	<-done
	cell.Straight = r.w.straight.blobBytes.Load()
	cell.Mirror = max(0, cell.Image-cell.Straight)
	return err
}

func (w *World) restart(ctx context.Context, what Restart) error {
	switch what {
	case peerdUpgraded, peerdTwice:
		return w.peerd.HandOver(ctx)
	case seederUpgraded:
		return w.seederP.HandOver(ctx)
	case peerdStopped:
		if status, err := w.peerd.Stop(stopWithin); err != nil || status != 0 {
			return errors.Join(err, fmt.Errorf("peerd ends with status %d", status))
		}
		return w.peerd.Restart(ctx)
	}
	return fmt.Errorf("no such restart: %s", what)
}

// judgeRestart: the pull works, by the mirror alone, unless its socket was
// closed for a while.
func (c *Cell) judgeRestart(what Restart) {
	c.Verdict = OK
	switch {
	case !c.Worked:
		c.Verdict = Fail
	case c.Straight > 0 && what != peerdStopped:
		c.Verdict, c.Reason = Fail, "not by the mirror alone"
	}
}
