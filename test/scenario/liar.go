package scenario

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/test/lab"
)

var lyingPeer = Scenario{
	Name: "lying-peer", Doc: "a peer with the network's key claims to hold everything and sends wrong bytes for every request",
	Needs: []Need{lab.Missing, lab.MissingRegistry, lab.MissingContainerd},
	run:   func(ctx context.Context, e *Env) error { return e.lyingPeer(ctx) },
}

func (e *Env) lyingPeer(ctx context.Context) error {
	c, err := e.newCluster(ctx, clusterSpec{hosts: 4})
	if err != nil {
		return err
	}
	p, id, err := c.startLiar(ctx)
	if err != nil {
		return err
	}
	pullers := c.httpPullers(c.peers, false)
	real, err := lab.StartContainerd(ctx, c.peers[0].Host, upstreamName, c.upURL, c.peers[0].Mirror)
	if err != nil {
		return err
	}
	e.logs = append(e.logs, real.Process)
	pullers[c.peers[0].Host.Name] = real // one of the clients that fail on a wrong byte, whoever else has the right one
	pl := c.pull(ctx, tag, pullers)
	e.expect("all pulls finish, containerd's too; every client has checked every digest", "yes", pl.wait(nil))

	asks := asksByPeer(p.Log())
	if len(asks) == 0 {
		e.row("the liar was asked for pieces at all", "yes", false, "nobody asked it: the run shows nothing")
		return nil
	}
	named, worst, text := 0, 0, []string{}
	for _, peer := range c.peers {
		st, err := peer.Status(ctx)
		if err != nil {
			return err
		}
		n := asks[st.PeerID]
		if n == 0 {
			continue
		}
		worst = max(worst, n)
		inStatus := len(liars(st, id)) > 0
		metrics, err := peer.Metrics(ctx)
		if err != nil {
			return err
		}
		inMetric, inLog := strings.Contains(metrics, id), logHas(peer.Process, id)
		if inStatus && inMetric && inLog {
			named++
		}
		text = append(text, fmt.Sprintf("%s: status %v, metric %v, log %v", peer.Host.Name, inStatus, inMetric, inLog))
	}
	e.row("peers that were lied to name the liar in log, metric and status", "all", named == len(text), "%s", strings.Join(text, "; "))
	// One ask per blob may be under way at the same moment, and one hedge.
	e.row("asks of one peer to the liar", "<= 2 per blob: not asked again", worst <= 2*len(c.blobs), "%d at most", worst)

	before := len(asksLines(p.Log()))
	for _, peer := range c.peers {
		peer.Kill()
	}
	for _, peer := range c.peers {
		if err := peer.Restart(ctx); err != nil {
			return err
		}
	}
	again := c.pull(ctx, tag, c.httpPullers(c.peers, false))
	e.expect("the stores hold no wrong byte: all pull again after a restart", "yes", again.wait(nil))
	e.info("asks to the liar after the restart", "%d", len(asksLines(p.Log()))-before)
	return nil
}

// startLiar builds and starts the liar, and waits until it is in the swarm.
func (c *cluster) startLiar(ctx context.Context) (*lab.Process, string, error) {
	h, err := c.lab.NewHost("liar", 0)
	if err != nil {
		return nil, "", err
	}
	bin := filepath.Join(h.Dir(), "liar")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/samara-p2p/samara/test/liar")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("build the liar: %w\n%s", err, out)
	}
	args := []string{"-key", filepath.Join(h.Dir(), "liar.key"), "-swarm-key", c.seeder.SwarmKey,
		"-p2p-listen", fmt.Sprintf("/ip4/%s/tcp/%d", h.IP, lab.P2PPort), "-pieces-listen", h.Addr(lab.PiecesPort)}
	for _, b := range c.blobs {
		args = append(args, "-blob", fmt.Sprintf("%s=%d", b.digest, b.size))
	}
	join := func(st *status.Status) {
		for _, a := range st.Addrs {
			if !strings.Contains(a, "/p2p/") {
				a += "/p2p/" + st.PeerID
			}
			args = append(args, "-join", a)
		}
	}
	st, err := c.seeder.Status(ctx)
	if err != nil {
		return nil, "", err
	}
	join(st)
	for _, p := range c.peers {
		if st, err = p.Status(ctx); err != nil {
			return nil, "", err
		}
		join(st)
	}
	p, err := h.Start(ctx, lab.Command{Name: "liar", Path: bin, Args: args})
	if err != nil {
		return nil, "", err
	}
	c.env.logs = append(c.env.logs, p)
	short, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	id := ""
	err = lab.Eventually(short, func() error {
		if f := strings.Fields(p.Log()); len(f) > 1 && f[0] == "liar" {
			id = f[1]
		} else {
			return fmt.Errorf("the liar does not start: %s", p.Tail(5))
		}
		for _, peer := range c.peers {
			st, err := peer.Status(short)
			if err != nil {
				return err
			}
			if !hasPeer(st, id) {
				return fmt.Errorf("%s does not know the liar", peer.Host.Name)
			}
		}
		return nil
	})
	return p, id, err
}

func hasPeer(st *status.Status, id string) bool {
	for _, p := range st.Peers {
		if p.ID == id {
			return true
		}
	}
	return false
}

func liars(st *status.Status, id string) []status.Liar {
	var all []status.Liar
	for _, l := range st.Liars {
		if l.ID == id {
			all = append(all, l)
		}
	}
	return all
}

func asksLines(log string) []string {
	var all []string
	for _, line := range strings.Split(log, "\n") {
		if strings.HasPrefix(line, "asked ") {
			all = append(all, line)
		}
	}
	return all
}

// asksByPeer counts the asks that the liar saw, by the peer that asked.
func asksByPeer(log string) map[string]int {
	n := map[string]int{}
	for _, line := range asksLines(log) {
		n[strings.Fields(line)[1]]++
	}
	return n
}
