package p2p

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// model runs the same operations on the usual map datastore.
func TestRecordStoreIsADatastore(t *testing.T) {
	ctx := t.Context()
	rnd := rand.New(rand.NewPCG(3, 4))
	s, model := newRecordStore(1000), ds.NewMapDatastore()
	key := func() ds.Key {
		k := ds.NewKey(fmt.Sprintf("/providers/K%d", rnd.IntN(5)))
		for range rnd.IntN(3) {
			k = k.ChildString(fmt.Sprint(rnd.IntN(3)))
		}
		return k
	}
	for i := range 5000 {
		k := key()
		switch rnd.IntN(4) {
		case 0, 1:
			v := []byte(fmt.Sprint(i))
			if err := s.Put(ctx, k, v); err != nil {
				t.Fatal(err)
			}
			model.Put(ctx, k, v)
		case 2:
			s.Delete(ctx, k)
			model.Delete(ctx, k)
		case 3:
			b, _ := s.Batch(ctx)
			v := []byte(fmt.Sprint(i))
			gone := key()
			b.Put(ctx, k, v)
			b.Delete(ctx, gone)
			if err := b.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			model.Put(ctx, k, v)
			model.Delete(ctx, gone)
		}
		a, errA := s.Get(ctx, k)
		b, errB := model.Get(ctx, k)
		if string(a) != string(b) || !errors.Is(errA, errB) {
			t.Fatalf("get %s: %q, %v; want %q, %v", k, a, errA, b, errB)
		}
		q := query.Query{Prefix: key().String(), KeysOnly: rnd.IntN(2) == 0, Limit: rnd.IntN(4), Orders: []query.Order{query.OrderByKey{}}}
		if rnd.IntN(10) == 0 {
			q.Prefix = "/"
		}
		if got, want := rest(t, s, q), rest(t, model, q); !slices.Equal(got, want) {
			t.Fatalf("query %+v:\n got %v\nwant %v", q, got, want)
		}
	}
	if want := len(rest(t, model, query.Query{})); s.Len() != want {
		t.Errorf("%d records, want %d", s.Len(), want)
	}
	for _, k := range rest(t, model, query.Query{KeysOnly: true}) {
		s.Delete(ctx, ds.RawKey(k[:len(k)-1]))
	}
	if s.Len() != 0 || len(s.root.children) != 0 {
		t.Errorf("%d records and %d branches left", s.Len(), len(s.root.children))
	}
}

func rest(t *testing.T, d ds.Datastore, q query.Query) []string {
	res, err := d.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	es, err := res.Rest()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Key+"="+string(e.Value))
	}
	slices.Sort(out)
	return out
}

func TestRecordStoreIsBounded(t *testing.T) {
	ctx := t.Context()
	s := newRecordStore(2)
	for i, want := range []error{nil, nil, errStoreFull} {
		if err := s.Put(ctx, ds.NewKey(fmt.Sprint(i)), nil); !errors.Is(err, want) {
			t.Errorf("record %d: %v", i, err)
		}
	}
	if err := s.Put(ctx, ds.NewKey("1"), []byte("new")); err != nil {
		t.Errorf("an old record anew: %v", err)
	}
	b, _ := s.Batch(ctx)
	b.Put(ctx, ds.NewKey("9"), nil)
	if err := b.Commit(ctx); err != nil || s.Len() != 2 {
		t.Errorf("batch beyond the limit: %v, %d records", err, s.Len())
	}
}

// A blob's records cost what they are, however many others there are.
func BenchmarkRecordStoreQuery(b *testing.B) {
	ctx := context.Background()
	s := newRecordStore(maxProviderRecords)
	for i := range 100_000 {
		s.Put(ctx, ds.NewKey(fmt.Sprintf("/providers/K%06d/P%d", i/5, i)), make([]byte, 9))
	}
	for b.Loop() {
		res, _ := s.Query(ctx, query.Query{Prefix: "/providers/K012345"})
		if es, _ := res.Rest(); len(es) != 5 {
			b.Fatal(len(es))
		}
	}
}
