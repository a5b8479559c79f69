package store

import (
	"container/list"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// OnStep calls f wherever a crash would be of interest. Set it before use.
func (s *Store) OnStep(f func(name string)) { s.step = f }

// Accounts recomputes what is accounted for and compares.
func (s *Store) Accounts() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	used, idle, promised, complete, listed := int64(0), int64(0), int64(0), 0, 0
	damaged := 0
	of := make(map[*prefix][3]int64) // used, promised, listed
	for _, st := range s.blobs {
		used += st.bytes
		promised += st.promise
		if st.damaged {
			damaged++
		}
		if st.full {
			complete++
		}
		if st.elem != nil {
			idle += st.bytes
			listed++
		}
		if (st.elem != nil) != (st.pins == 0 && !st.kept) {
			return fmt.Errorf("%s is listed: %v, with %d pins, kept: %v", st.digest, st.elem != nil, st.pins, st.kept)
		}
		for _, sh := range st.shares {
			a := of[sh.p]
			a[0] += st.bytes
			a[1] += st.promise
			if sh.elem != nil {
				a[2]++
			}
			of[sh.p] = a
		}
	}
	if used != s.used || idle != s.idle || promised != s.promised || complete != s.complete || listed != s.lru.Len() {
		return fmt.Errorf("used %d, idle %d, promised %d, complete %d, listed %d; accounted for are %d, %d, %d, %d, %d",
			used, idle, promised, complete, listed, s.used, s.idle, s.promised, s.complete, s.lru.Len())
	}
	if damaged != s.damaged {
		return fmt.Errorf("%d are damaged; accounted for are %d", damaged, s.damaged)
	}
	lists := []*list.List{&s.lru}
	for _, p := range s.prefixes {
		if a := of[p]; a[0] != p.used || a[1] != p.promised || int(a[2]) != p.lru.Len() {
			return fmt.Errorf("%s: used, promised, listed are %v; accounted for are %d, %d, %d", p.name, a, p.used, p.promised, p.lru.Len())
		}
		lists = append(lists, &p.lru)
	}
	for _, l := range lists {
		for e := l.Front(); e != nil && e.Next() != nil; e = e.Next() {
			if e.Value.(*state).lastUse.After(e.Next().Value.(*state).lastUse) {
				return errors.New("a list is not in the order of use")
			}
		}
	}
	return nil
}

// DecodeRuns and EncodeRuns give the fuzz test access to the runs file's format.
func DecodeRuns(b []byte) ([][]byte, int) { return decodeRuns(b) }

func EncodeRuns(envelopes [][]byte) []byte { return encodeRuns(envelopes) }

// DecodeMeta and EncodeMeta, the same of the meta file.
func DecodeMeta(d digest.Digest, b []byte) (size int64, m Meta, kept bool, err error) {
	good, err := decodeMeta(d, b)
	if err != nil {
		return 0, Meta{}, false, err
	}
	return good.g.Size(), good.Meta, good.kept, nil
}

func EncodeMeta(d digest.Digest, size int64, m Meta, kept bool) []byte {
	return encodeMeta(d, size, m, kept)
}
