package scenario

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/test/lab"
)

// A digest that nobody knows. Contract 11 of the clients' page: about 1 s of
// looking, 2 s at most.
var unknownDigest = Scenario{
	Name: "unknown-digest", Doc: "clients ask for digests that nobody has, with a DHT that names nobody, and with one that does not answer",
	Needs: []Need{lab.Missing, lab.MissingRegistry},
	run:   func(ctx context.Context, e *Env) error { return e.unknownDigest(ctx) },
}

func (e *Env) unknownDigest(ctx context.Context) error {
	// Who shares all asks the DHT; by itself a peerd is content when the upstream says no.
	c, err := e.newCluster(ctx, clusterSpec{hosts: 4, peerArgs: []string{"--private", "shared"}})
	if err != nil {
		return err
	}
	subject, others := c.peers[0], c.peers[1:]
	if err := c.pull(ctx, tag, c.httpPullers(c.peers[:1], false)).wait(nil); err != nil {
		return err // the swarm works
	}
	alone, err := c.lab.NewHost("alone", 0)
	if err != nil {
		return err
	}
	nobody, err := lab.StartPeerd(ctx, e.Bin, alone, lab.PeerdConfig{SwarmKey: c.seeder.SwarmKey, Args: []string{"--upstream", upstreamName + "=" + c.upURL}})
	if err != nil {
		return err
	}
	e.logs = append(e.logs, nobody.Process)

	e.askUnknown(ctx, nobody, "DHT empty, no seeder: ", time.Second)
	e.askUnknown(ctx, subject, "DHT names nobody: ", time.Second)
	for _, p := range others {
		p.Pause()
	}
	e.askUnknown(ctx, subject, "DHT black-holed: ", 2*time.Second)
	c.seeder.Pause()
	e.askUnknown(ctx, subject, "seeder, too: ", 2*time.Second)
	c.upstream.Pause()
	e.askUnknown(ctx, subject, "upstream, too: ", 2*time.Second)
	c.upstream.Resume()
	c.seeder.Resume()
	for _, p := range others {
		p.Resume()
	}
	return nil
}

// askUnknown asks a mirror for digests that nobody has, manifests and blobs, eight
// at a time, and reports how long the answers took.
func (e *Env) askUnknown(ctx context.Context, p *lab.Peerd, what string, target time.Duration) {
	n := 40
	if e.Size.Times {
		n = 200
	}
	client := p.Host.HTTPClient()
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	var wrong error
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				kind := []string{"manifests", "blobs"}[i%2]
				url := fmt.Sprintf("%s/v2/%s/%s/%s?ns=%s", p.Mirror, repo, kind, digest.FromString(fmt.Sprint(what, i)), upstreamName)
				d, err := ask404(ctx, client, url)
				mu.Lock()
				took = append(took, d)
				if err != nil {
					wrong = err
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	e.expect(what+"all are 404", "yes", wrong)
	slices.Sort(took)
	at := func(share float64) time.Duration { return took[int(share*float64(len(took)-1))] }
	within := at(0.99)
	bound := "p99 <= "
	if target > time.Second { // the hard limit
		within, bound = at(1), "<= "
	}
	e.timing(what+"time to the answer", bound+target.String(), within <= target, "p50 %.0f ms, p99 %.0f ms, longest %.0f ms of %d",
		ms(at(0.5)), ms(at(0.99)), ms(at(1)), n)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ask404 sends a request and tells how long its answer took, which has to be 404.
func ask404(ctx context.Context, client *http.Client, url string) (time.Duration, error) {
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return time.Since(began), err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode != http.StatusNotFound {
		err = fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return time.Since(began), err
}
