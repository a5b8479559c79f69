package p2p

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// errStoreFull: the record store holds as much as it may.
var errStoreFull = errors.New("p2p: provider record store is full")

// recordStore is a datastore in memory in which a query by prefix costs what
// it returns. The DHT's provider manager keeps a record under
// /providers/<key>/<peer> and finds a blob's by that prefix; on the usual map
// each such query walks every record (128 ms at 100,000).
//
// Records hang off their parent path, so that the manager's two queries, one
// blob's and everything, walk only what they yield. Deeper prefixes (the
// keystore's, one path element per bit) walk the tree of elements.
type recordStore struct {
	max int

	mu   sync.RWMutex
	root *dirNode
	n    int
}

type dirNode struct {
	value    []byte // of the record that ends here
	set      bool
	children map[string]*dirNode
}

var _ ds.Batching = (*recordStore)(nil)

func newRecordStore(limit int) *recordStore {
	return &recordStore{max: limit, root: &dirNode{}}
}

// Len is the number of records.
func (s *recordStore) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.n
}

func elements(k string) []string {
	k = strings.Trim(k, "/")
	if k == "" {
		return nil
	}
	return strings.Split(k, "/")
}

func (s *recordStore) find(k string) *dirNode {
	d := s.root
	for _, e := range elements(k) {
		if d = d.children[e]; d == nil {
			return nil
		}
	}
	return d
}

// Put is part of datastore.Write. It fails with errStoreFull for a new record
// beyond the limit.
func (s *recordStore) Put(_ context.Context, k ds.Key, v []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(k, v)
}

func (s *recordStore) put(k ds.Key, v []byte) error {
	if d := s.find(k.String()); d != nil && d.set {
		d.value = slices.Clone(v)
		return nil
	}
	if s.n >= s.max {
		return errStoreFull
	}
	d := s.root
	for _, e := range elements(k.String()) {
		c := d.children[e]
		if c == nil {
			c = &dirNode{}
			if d.children == nil {
				d.children = make(map[string]*dirNode, 1)
			}
			d.children[strings.Clone(e)] = c
		}
		d = c
	}
	d.value, d.set = slices.Clone(v), true
	s.n++
	return nil
}

// Delete is part of datastore.Write.
func (s *recordStore) Delete(_ context.Context, k ds.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(s.root, elements(k.String()))
	return nil
}

// remove deletes the record at path below d and tells whether d is empty now.
func (s *recordStore) remove(d *dirNode, path []string) bool {
	if len(path) == 0 {
		if d.set {
			d.value, d.set = nil, false
			s.n--
		}
	} else if c := d.children[path[0]]; c != nil && s.remove(c, path[1:]) {
		delete(d.children, path[0])
	}
	return !d.set && len(d.children) == 0
}

// Get is part of datastore.Read.
func (s *recordStore) Get(_ context.Context, k ds.Key) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if d := s.find(k.String()); d != nil && d.set {
		return slices.Clone(d.value), nil
	}
	return nil, ds.ErrNotFound
}

// Has is part of datastore.Read.
func (s *recordStore) Has(_ context.Context, k ds.Key) (bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	d := s.find(k.String())
	return d != nil && d.set, nil
}

// GetSize is part of datastore.Read.
func (s *recordStore) GetSize(_ context.Context, k ds.Key) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if d := s.find(k.String()); d != nil && d.set {
		return len(d.value), nil
	}
	return -1, ds.ErrNotFound
}

// Query is part of datastore.Read. As in every datastore, a prefix is a path
// and yields what lies below it, not the record of that very name.
func (s *recordStore) Query(_ context.Context, q query.Query) (query.Results, error) {
	var es []query.Entry
	s.mu.RLock()
	prefix := "/" + strings.Trim(q.Prefix, "/")
	if d := s.find(prefix); d != nil {
		if prefix == "/" {
			prefix = ""
		}
		es = walk(es, d, prefix, q.KeysOnly && !q.ReturnsSizes, false)
	}
	s.mu.RUnlock()
	slices.SortFunc(es, func(a, b query.Entry) int { return strings.Compare(a.Key, b.Key) })
	q.Prefix = "" // done
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, es)), nil
}

func walk(es []query.Entry, d *dirNode, path string, keysOnly, self bool) []query.Entry {
	if d.set && self {
		e := query.Entry{Key: path, Size: len(d.value)}
		if !keysOnly {
			e.Value = slices.Clone(d.value)
		}
		es = append(es, e)
	}
	for name, c := range d.children {
		es = walk(es, c, path+"/"+name, keysOnly, true)
	}
	return es
}

// Batch is part of datastore.Batching.
func (s *recordStore) Batch(context.Context) (ds.Batch, error) { return &recordBatch{s: s}, nil }

// Sync is part of datastore.Datastore: there is nothing to sync.
func (s *recordStore) Sync(context.Context, ds.Key) error { return nil }

// Close is part of datastore.Datastore.
func (s *recordStore) Close() error { return nil }

type recordBatch struct {
	s   *recordStore
	ops []recordOp
}

type recordOp struct {
	key    ds.Key
	value  []byte
	delete bool
}

// Put is part of datastore.Write.
func (b *recordBatch) Put(_ context.Context, k ds.Key, v []byte) error {
	b.ops = append(b.ops, recordOp{key: k, value: slices.Clone(v)})
	return nil
}

// Delete is part of datastore.Write.
func (b *recordBatch) Delete(_ context.Context, k ds.Key) error {
	b.ops = append(b.ops, recordOp{key: k, delete: true})
	return nil
}

// Commit applies the batch. Records that do not fit are left out: the
// provider manager would otherwise keep the batch and stop taking any.
func (b *recordBatch) Commit(context.Context) error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	for _, op := range b.ops {
		if op.delete {
			b.s.remove(b.s.root, elements(op.key.String()))
		} else if err := b.s.put(op.key, op.value); err != nil && !errors.Is(err, errStoreFull) {
			return err
		}
	}
	b.ops = nil
	return nil
}
