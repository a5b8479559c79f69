package clients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// Verdict on a cell.
type Verdict string

// The verdicts.
const (
	OK    Verdict = "ok"    // the pull works
	Same  Verdict = "same"  // it cannot work, and does not without a mirror either
	Worse Verdict = "WORSE" // no source is whole; without a mirror it works
	Fail  Verdict = "FAIL"  // a source has the bytes, and the pull fails; or it works in no-fault otherwise than by the mirror
	Info  Verdict = "info"  // it fails, and nobody promises otherwise
	Error Verdict = "ERROR" // the cell could not be made
)

// Cell is what became of one pull.
type Cell struct {
	Client    string  `json:"client"`
	Condition string  `json:"condition"`
	Verdict   Verdict `json:"verdict"`
	Works     bool    `json:"mustWork"`
	Worked    bool    `json:"worked"`
	Seconds   float64 `json:"seconds"`
	Image     int64   `json:"imageBytes"`        // of layers
	Mirror    int64   `json:"bytesFromMirror"`   // to the client, manifests included
	Straight  int64   `json:"bytesFromUpstream"` // of blobs, to the client, past the mirror
	Peers     int64   `json:"peerdFromPeers"`
	Seeder    int64   `json:"peerdFromSeeder"`
	Upstream  int64   `json:"peerdFromUpstream"`
	Wasted    int64   `json:"peerdWasted"`
	// Refetched is of peerd-killed: what the client asks of the upstream although it may have had it
	// from the mirror. Mirror is what is left there of the image.
	Refetched int64  `json:"refetched,omitempty"`
	Struck    int64  `json:"struck"` // how often the trouble showed; of processes and cables it is 1
	Reason    string `json:"reason,omitempty"`

	// Bare is the same client without a mirror; only where no source is whole.
	Bare *Bare `json:"bare,omitempty"`

	// Logs are what the daemons printed, by host, of cells that are not as they should be.
	Logs map[string]string `json:"-"`
}

// Bare is what became of a pull without a mirror.
type Bare struct {
	Worked  bool    `json:"worked"`
	Seconds float64 `json:"seconds"`
	Reason  string  `json:"reason,omitempty"`
}

// Row is one client in one world.
type Row struct {
	w    *World
	kind Kind

	mirrored, bare Client
	barely         map[string]Bare
	last           *Condition
}

// NewRow seats a client on both hosts of a world, and starts it.
func (w *World) NewRow(ctx context.Context, k Kind) (*Row, error) {
	r := &Row{w: w, kind: k, barely: map[string]Bare{}}
	seat, err := newSeat(w.node, k.Name, w.upHost.IP)
	if err != nil {
		return nil, err
	}
	if err := seat.setUp(ctx, w.bin.Peerd, k.Runtime, "http://"+w.node.Local(lab.MirrorPort)); err != nil {
		return nil, err
	}
	without, err := newSeat(w.bare, k.Name, w.upHost.IP)
	if err != nil {
		return nil, err
	}
	if err := without.straightOnly(); err != nil {
		return nil, err
	}
	r.mirrored, r.bare = k.New(seat), k.New(without)
	for _, c := range []Client{r.mirrored, r.bare} {
		if err := c.Start(ctx); err != nil {
			r.Close()
			return nil, fmt.Errorf("start %s: %w", k.Name, err)
		}
	}
	return r, nil
}

// Close ends the client.
func (r *Row) Close() {
	r.mirrored.Stop()
	r.bare.Stop()
}

// Run makes one cell.
func (r *Row) Run(ctx context.Context, c Condition) Cell {
	cell := Cell{Client: r.kind.Name, Condition: c.Name, Works: c.Works()}
	if r.kind.MirrorOnly { // it has no other way
		mirrors := c
		mirrors.Straight = c.Upstream
		cell.Works = mirrors.Works()
	}
	_, mark := r.w.logs(nil)
	if err := r.run(ctx, c, &cell); err != nil {
		cell.Verdict, cell.Reason = Error, err.Error()
	}
	if cell.Bad() {
		cell.Logs, _ = r.w.logs(mark)
	}
	return cell
}

func (r *Row) run(ctx context.Context, c Condition, cell *Cell) error {
	w := r.w
	if err := w.heal(ctx, r.last); err != nil {
		return err
	}
	r.last = &c
	repo, ref, size := w.image(c)
	cell.Image = size
	if err := w.newPeerd(ctx); err != nil {
		return err
	}
	if c.Peer != nil && c.Peer.How == Liar {
		if err := w.startLiar(ctx, c.Peer.Mode); err != nil {
			return err
		}
	}
	if err := w.begin(c); err != nil {
		return err
	}
	switch {
	case c.Kill:
		if err := r.pullAndKill(ctx, repo, ref, cell); err != nil {
			return err
		}
	case c.Restart != "":
		if err := r.pullAndRestart(ctx, c, repo, ref, cell); err != nil {
			return err
		}
	default:
		cell.Worked, cell.Seconds, cell.Reason = pull(ctx, r.mirrored, repo, ref)
		if err := r.measure(ctx, c, cell); err != nil {
			return err
		}
	}
	if err := w.heal(ctx, nil); err != nil {
		return err
	}
	if !cell.Worked {
		r.mirrored.Stop()
		if err := r.mirrored.Start(ctx); err != nil {
			return err
		}
	} else if err := r.mirrored.Remove(ctx); err != nil {
		return err
	}
	if !cell.Worked && !cell.Works && !r.kind.MirrorOnly {
		b, err := r.without(ctx, c)
		if err != nil {
			return err
		}
		cell.Bare = &b
	}
	if c.Restart != "" {
		cell.judgeRestart(c.Restart)
	} else {
		cell.judge(r.kind)
	}
	return nil
}

// begin sets what is wrong in a condition.
func (w *World) begin(c Condition) error {
	w.straight.set(c.Straight)
	w.mirrors.set(c.Upstream)
	return errors.Join(w.seeder.set(c.Seeder), w.peer.set(c.Peer))
}

// pullAndKill pulls, and kills the node's peerd when it has a third of the
// layers.
func (r *Row) pullAndKill(ctx context.Context, repo, ref string, cell *Cell) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		cell.Worked, cell.Seconds, cell.Reason = pull(ctx, r.mirrored, repo, ref)
	}()
	begun := map[string]int64{} // blobs on their way to the client, and how much peerd has of them
	err := lab.Eventually(ctx, func() error {
		select {
		case <-done:
			return nil
		default:
		}
		st, err := r.w.peerd.Status(ctx)
		if err != nil {
			return err
		}
		clear(begun)
		for _, b := range st.Blobs {
			if b.Readers > 0 && b.Have > 0 {
				begun[b.Digest] = b.Have
			}
		}
		if st.Bytes.FromPeers+st.Bytes.FromSeeder < cell.Image/3 || len(begun) == 0 {
			return errors.New("not a third yet")
		}
		return nil
	})
	r.w.peerd.Kill()
	<-done
	cell.Straight = r.w.straight.blobBytes.Load()
	cell.Mirror = max(0, cell.Image-cell.Straight)
	seen := map[string]bool{}
	for _, a := range r.w.straight.blobsAsked() {
		if have, ok := begun[a.digest]; ok {
			cell.Struck++
			if a.from == 0 {
				cell.Refetched += have
			}
		}
		if seen[a.digest] {
			cell.Refetched++ // asked for twice: at least that
		}
		seen[a.digest] = true
	}
	return err
}

// pull says whether it worked, how many seconds it took, and why not.
func pull(ctx context.Context, c Client, repo, ref string) (bool, float64, string) {
	image := repo + ":" + ref
	if strings.HasPrefix(ref, "sha256:") {
		image = repo + "@" + ref
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("does not end within %s", patience))
	defer cancel()
	start := time.Now()
	err := c.Pull(ctx, image)
	took := time.Since(start).Seconds()
	if err != nil {
		return false, took, lastLine(err.Error())
	}
	return true, took, ""
}

// lastLine is what matters of what a program printed.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	s = lines[len(lines)-1]
	if len(s) > 300 {
		s = s[:100] + "..." + s[len(s)-200:]
	}
	return s
}

// measure reads what went where.
func (r *Row) measure(ctx context.Context, c Condition, cell *Cell) error {
	w := r.w
	st, err := w.peerd.Status(ctx)
	if err != nil {
		return fmt.Errorf("the node's peerd: %w", err)
	}
	b := st.Bytes
	cell.Mirror, cell.Straight = b.ToClients, w.straight.blobBytes.Load()
	cell.Peers, cell.Seeder, cell.Upstream, cell.Wasted = b.FromPeers, b.FromSeeder, b.FromUpstream, b.Wasted
	cell.Struck = w.straight.struck.Load() + w.mirrors.struck.Load() + w.seeder.struck() + w.peer.struck()
	if c.Seeder != nil && c.Peer != nil && c.Seeder.How == Slow && c.Peer.How != Slow { // it only helps the peer's trouble to show
		cell.Struck = w.peer.struck()
	}
	for _, s := range []*source{w.seeder, w.peer} {
		if s.down != "" {
			cell.Struck++
		}
	}
	if w.liar != nil {
		cell.Struck = int64(strings.Count(w.liar.Log(), "\nasked "))
	}
	return nil
}

// without is the same pull by the client that has no mirror. What is wrong with
// others does not matter to it, so each trouble of the upstream is tried once.
func (r *Row) without(ctx context.Context, c Condition) (Bare, error) {
	key := fmt.Sprint(c.Straight, c.ByDigest)
	if b, ok := r.barely[key]; ok {
		return b, nil
	}
	repo, ref, _ := r.w.image(c)
	r.w.straight.set(c.Straight)
	defer r.w.straight.set(nil)
	var b Bare
	b.Worked, b.Seconds, b.Reason = pull(ctx, r.bare, repo, ref)
	r.w.straight.set(nil)
	r.barely[key] = b
	r.bare.Stop()
	return b, r.bare.Start(ctx)
}

// judge holds what happened to what has to.
func (c *Cell) judge(k Kind) {
	switch {
	case c.Condition == peerdKilled:
		c.Verdict = OK
		if k.Resumes && (!c.Worked || c.Refetched > 0) {
			c.Verdict = Fail
		} else if !c.Worked {
			c.Verdict = Info
		}
	case c.Worked:
		c.Verdict = OK
		if c.Mirror+c.Straight < c.Image {
			c.Verdict, c.Reason = Error, "the client had some of the image"
		}
		if strings.HasPrefix(c.Condition, "no-fault") && (c.Straight > 0 || c.Mirror < c.Image) {
			c.Verdict, c.Reason = Fail, "not by the mirror alone"
		}
	case c.Works:
		c.Verdict = Fail
	case c.Bare != nil && c.Bare.Worked:
		c.Verdict = Worse
	case c.Bare != nil && c.Seconds > 2*c.Bare.Seconds+60:
		c.Verdict, c.Reason = Worse, fmt.Sprintf("fails after %.0f s, without a mirror after %.0f s: %s", c.Seconds, c.Bare.Seconds, c.Reason)
	default:
		c.Verdict = Same
	}
}
