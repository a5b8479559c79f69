package p2p

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// taker is a node that takes orders of one peer.
func taker(t *testing.T, of peer.ID, got *[]Order) *testNode {
	t.Helper()
	n, err := New(withRecorder(testConfig(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	n.TakeOrders(func(from peer.ID, orders []Order) ([]OrderState, error) {
		if from != of {
			return nil, errors.New("no seeder of ours")
		}
		*got = orders
		states := make([]OrderState, len(orders))
		for i, o := range orders {
			states[i] = OrderState{ID: o.ID, Phase: OrderFailed, Images: 2, ImagesDone: 1, Bytes: 5, BytesTotal: 9, Error: strings.Repeat("é", 400)}
		}
		return states, nil
	})
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return &testNode{Node: n}
}

// A host takes orders of its seeder whole, and of nobody else.
func TestOrders(t *testing.T) {
	seeder, other := startNode(t, testConfig(t)), startNode(t, testConfig(t))
	var got []Order
	host := taker(t, seeder.ID(), &got)
	for _, n := range []*testNode{seeder, other} {
		if err := n.Connect(t.Context(), host.info()); err != nil {
			t.Fatal(err)
		}
	}
	sent := []Order{
		{ID: "7-x", Images: []OrderedImage{{Repository: nginx, Tag: "1.27", Digest: testDigest, Age: 3 * time.Second}}, Platforms: []string{"linux/arm64"}, Rate: 1 << 20, Left: time.Hour},
		{ID: "8-x", Cancel: true},
	}
	states, err := seeder.Prewarm(t.Context(), host.ID(), sent)
	if err != nil || !reflect.DeepEqual(got, sent) {
		t.Fatalf("%+v, %v", got, err)
	}
	if len(states) != 2 || states[0].ID != "7-x" || states[0].Phase != OrderFailed || states[0].Bytes != 5 || states[0].ImagesDone != 1 || !strings.HasPrefix(states[0].Error, "éé") {
		t.Errorf("%+v", states)
	}
	if _, err := other.Prewarm(t.Context(), host.ID(), sent); err == nil {
		t.Error("orders of somebody else were taken")
	}
	if _, err := host.Prewarm(t.Context(), seeder.ID(), sent); !errors.Is(err, ErrNoOrders) {
		t.Errorf("a peer that does not speak the protocol: %v", err)
	}
	if _, err := seeder.Prewarm(t.Context(), "nobody", sent); !errors.Is(err, ErrNotNeighbour) {
		t.Errorf("a peer that is away: %v", err)
	}
}

func TestOrdersBounds(t *testing.T) {
	order := func(change func(*pb.Order)) []byte {
		o := &pb.Order{Id: "1", Images: []*pb.OrderedImage{{Repository: nginx, Digest: testDigest.String()}}}
		change(o)
		b, err := proto.Marshal(&pb.Orders{Orders: []*pb.Order{o}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := parseOrders(order(func(*pb.Order) {})); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"noise":              {0xff, 1},
		"no name":            order(func(o *pb.Order) { o.Id = "" }),
		"a long name":        order(func(o *pb.Order) { o.Id = strings.Repeat("x", maxOrderID+1) }),
		"a wild rate":        order(func(o *pb.Order) { o.Rate = 1 << 63 }),
		"no end":             order(func(o *pb.Order) { o.Left = 1 << 62 }),
		"no digest":          order(func(o *pb.Order) { o.Images[0].Digest = "sha256:x" }),
		"no repository":      order(func(o *pb.Order) { o.Images[0].Repository = "" }),
		"an age beyond time": order(func(o *pb.Order) { o.Images[0].Age = 1 << 60 }),
		"many platforms":     order(func(o *pb.Order) { o.Platforms = make([]string, maxPlatforms+1) }),
		"a long platform":    order(func(o *pb.Order) { o.Platforms = []string{strings.Repeat("x", maxPlatform+1)} }),
	} {
		if _, err := parseOrders(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzOrders(f *testing.F) {
	b, err := proto.Marshal(&pb.Orders{Orders: []*pb.Order{{Id: "1", Images: []*pb.OrderedImage{{Repository: nginx, Digest: testDigest.String()}}}}})
	if err != nil {
		f.Fatal(err)
	}
	s, err := proto.Marshal(&pb.OrderStates{States: []*pb.OrderState{{Id: "1", Phase: pb.OrderPhase_ORDER_DONE, Images: 1, ImagesDone: 1}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(s)
	f.Fuzz(func(t *testing.T, b []byte) {
		if orders, err := parseOrders(b); err == nil {
			for _, o := range orders {
				for _, i := range o.Images {
					if i.Digest.Validate() != nil || i.Age < 0 || o.Left < 0 {
						t.Errorf("%+v", o)
					}
				}
			}
		}
		if states, err := parseStates(b, []Order{{ID: "1"}}); err == nil && (states[0].Phase > OrderRefused || states[0].ImagesDone > states[0].Images || states[0].Bytes < 0) {
			t.Errorf("%+v", states)
		}
	})
}
