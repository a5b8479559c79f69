package node

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/p2p/pb"
	"github.com/samara-p2p/samara/test/lab"
)

// joinBesideDHT makes peerd a neighbour that has the swarm's key and says hello,
// and takes no part in the DHT that peerd knows, as one of another release might.
// It stays until the end of the test.
func (w *ward) joinBesideDHT(t *testing.T) {
	t.Helper()
	psk, err := p2p.LoadSwarmKey(w.key)
	if err != nil {
		t.Fatal(err)
	}
	st, err := w.peerd.Status(t.Context())
	if err != nil || len(st.Addrs) == 0 {
		t.Fatalf("where peerd listens: %+v, %v", st, err)
	}
	to, err := peer.AddrInfoFromString(st.Addrs[0] + "/p2p/" + st.PeerID)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.PrivateNetwork(psk), libp2p.DisableMetrics(), libp2p.DisableRelay())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); h.Close(); <-done })
	if err := h.Connect(ctx, *to); err != nil {
		close(done)
		t.Fatal(err)
	}
	s, err := h.NewStream(ctx, to.ID, "/samara/swarm/1.0.0")
	if err == nil {
		_, err = protodelim.MarshalTo(s, &pb.Frame{Body: &pb.Frame_Hello{Hello: &pb.Hello{Instance: []byte("another"), Epoch: 1, Agent: "test"}}})
	}
	if err != nil {
		close(done)
		t.Fatal(err)
	}
	go func() { // who says nothing for a while is down
		defer close(done)
		go func() { _, _ = io.Copy(io.Discard, s) }()
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := protodelim.MarshalTo(s, &pb.Frame{Body: &pb.Frame_Ping{Ping: &pb.Ping{Token: 1}}}); err != nil {
					return
				}
			}
		}
	}()
	if err := lab.Eventually(t.Context(), func() error {
		st, err := w.peerd.Status(t.Context())
		if err == nil && st.Swarm.Neighbours == 0 {
			err = errors.New("it is no neighbour yet")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
