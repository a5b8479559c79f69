package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/lab"
)

// world is an upstream, a seeder and a peerd on unshaped links.
type world struct {
	lab    *lab.Lab
	up     *upstream
	seeder *lab.Seeder
	peerd  *lab.Peerd // nil where none was asked for
	stop   func()
}

func (b *bench) world(ctx context.Context, size int64, peerd bool) (w *world, err error) {
	w = &world{stop: func() {}}
	if w.lab, err = lab.New(lab.Options{Rate: -1}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	hosts := map[string]*lab.Host{}
	for _, name := range []string{"upstream", "seeder", "peerd"} {
		if hosts[name], err = w.lab.NewHost(name, 0); err != nil {
			return w, err
		}
	}
	if w.up, err = newUpstream(size); err != nil {
		return w, err
	}
	var url string
	if url, w.stop, err = w.up.start(hosts["upstream"]); err != nil {
		w.stop = func() {}
		return w, err
	}
	w.seeder, err = lab.StartSeeder(ctx, b.bin, hosts["seeder"], lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: upstreamName, URL: url}}})
	if err != nil || !peerd {
		return w, err
	}
	w.peerd, err = lab.StartPeerd(ctx, b.bin, hosts["peerd"], lab.PeerdConfig{Seeder: w.seeder.URL, SwarmKey: w.seeder.SwarmKey})
	return w, err
}

func (w *world) close() error {
	err := w.lab.Close()
	w.stop()
	return err
}

// move has a peerd receive a large blob, of the seeder and of peers that hold
// it, and serve it to a client meanwhile.
func (b *bench) move(ctx context.Context) (u usage, err error) {
	w, err := b.world(ctx, b.size, true)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	others, err := b.startCrowds(ctx, w, b.givers, true)
	if err != nil {
		return u, err
	}
	if err := gathered(ctx, w.peerd, others, b.givers+1); err != nil {
		return u, err
	}
	client := w.peerd.Host.HTTPClient()
	defer client.CloseIdleConnections()
	half := time.AfterFunc(5*time.Second, func() { b.heap(ctx, "move-peerd", w.peerd.Heap) })
	defer half.Stop()
	began := time.Now()
	puller := &lab.HTTPPuller{Client: client, Mirror: w.peerd.Mirror, NS: upstreamName}
	if _, err := puller.Pull(ctx, repository, tag); err != nil {
		return u, err
	}
	took := time.Since(began)
	if u.Memory, err = proc.MemoryOf(w.peerd.Pid()); err != nil {
		return u, err
	}
	s, err := proc.MemoryOf(w.seeder.Pid())
	if err != nil {
		return u, err
	}
	st, err := w.peerd.Status(ctx)
	if err != nil {
		return u, err
	}
	u.note = fmt.Sprintf("%.0f MiB/s, %.0f%% of it from %d peers; the seeder took %.0f MiB", float64(b.size)/mib/took.Seconds(),
		100*float64(st.Bytes.FromPeers)/float64(b.size), b.givers, float64(s.Peak)/mib)
	return u, nil
}
