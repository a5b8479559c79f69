package piece

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/opencontainers/go-digest"
)

// sealWith signs a payload that Seal would refuse.
func sealWith(t testing.TB, key crypto.PrivKey, payload []byte) []byte {
	t.Helper()
	e, err := record.Seal(&sealed{typ: typeRun, payload: payload}, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func addVectorEnvelopes(f *testing.F) {
	v := readVectors(f)
	for _, c := range v.Run {
		f.Add(unhex(f, c.Envelope))
	}
	for _, c := range v.Revocation {
		f.Add(unhex(f, c.Envelope))
	}
	for _, c := range v.Refused {
		f.Add(unhex(f, c.Envelope))
	}
}

// FuzzOpen feeds bytes from anybody to both openers.
func FuzzOpen(f *testing.F) {
	addVectorEnvelopes(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, signer, err := Open(b); err == nil {
			if err := r.check(); err != nil || signer == "" {
				t.Errorf("Open took a run in that breaks the rules: %+v by %q: %v", r, signer, err)
			}
		}
		if d, signer, err := OpenRevocation(b); err == nil {
			if _, err := checkDigest(d); err != nil || signer == "" {
				t.Errorf("OpenRevocation took in %q by %q: %v", d, signer, err)
			}
		}
	})
}

// FuzzOpenSigned lets a lying signer choose the payload, so that the fuzzer
// gets past the signature. What Open takes, Seal makes again byte by byte.
func FuzzOpenSigned(f *testing.F) {
	for _, c := range readVectors(f).Run {
		if r, _, err := Open(unhex(f, c.Envelope)); err == nil {
			if payload, err := r.marshal(); err == nil {
				f.Add(payload)
			}
		}
	}
	key, id := keyOf(f, testSeed(1))
	f.Fuzz(func(t *testing.T, payload []byte) {
		envelope := sealWith(t, key, payload)
		r, signer, err := Open(envelope)
		if err != nil {
			return
		}
		again, err := Seal(key, r)
		if err != nil || !bytes.Equal(again, envelope) || signer != id {
			t.Errorf("Seal(Open(%x)) = %x, %v", envelope, again, err)
		}
	})
}

// FuzzSeal: whatever Seal signs, Open gives back.
func FuzzSeal(f *testing.F) {
	f.Add(int64(600_000), 1, 2, false)
	f.Add(int64(0), 0, 0, true)
	f.Add(int64(MaxBlobSize), 262_143, 1, false)
	f.Add(int64(math.MaxInt64), math.MaxInt, 1, true)
	key, id := keyOf(f, testSeed(1))
	f.Fuzz(func(t *testing.T, size int64, first, n int, final bool) {
		if n < 0 || n > 2000 {
			return
		}
		want := Run{Digest: testDigest, Size: size, First: first, Hashes: make([]Hash, n), Final: final}
		for i := range want.Hashes {
			want.Hashes[i][i%HashSize] = byte(i)
		}
		envelope, err := Seal(key, want)
		if err != nil {
			return
		}
		got, signer, err := Open(envelope)
		if err != nil || signer != id || got.Digest != want.Digest || got.Size != size || got.First != first ||
			got.Final != final || !slices.Equal(got.Hashes, want.Hashes) {
			t.Errorf("Open(Seal(%+v)) = %+v, %s, %v", want, got, signer, err)
		}
	})
}

func FuzzBitfieldFromBytes(f *testing.F) {
	for _, c := range readVectors(f).Bitfield {
		f.Add(c.Pieces, unhex(f, c.Hex))
	}
	f.Add(math.MaxInt, []byte{0})
	f.Add(math.MinInt, []byte{})
	f.Fuzz(func(t *testing.T, n int, b []byte) {
		set, err := BitfieldFromBytes(n, b)
		if err != nil {
			return
		}
		if set.Len() != n || !bytes.Equal(set.Bytes(), b) {
			t.Errorf("BitfieldFromBytes(%d, %x) has length %d, bytes %x", n, b, set.Len(), set.Bytes())
		}
		if n > 4096 {
			return
		}
		model := make([]bool, n)
		for i := range model {
			model[i] = b[i/8]&(0x80>>(i%8)) != 0
		}
		checkAgainst(t, set, model)
	})
}

func FuzzBlobCID(f *testing.F) {
	f.Add("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Add("sha512:")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := BlobCID(digest.Digest(s))
		if err == nil && (!c.Defined() || len(s) != len("sha256:")+2*(len(c.Hash())-2)) {
			t.Errorf("BlobCID(%q) = %s", s, c)
		}
	})
}

// FuzzListAdd adds runs in any order, three bytes each: first, length, and bits
// for final (1), other hashes (2) and no envelope (4). It compares the list
// with a plain model, and what Envelopes passes on with what is known.
func FuzzListAdd(f *testing.F) {
	f.Add([]byte{0, 4, 0, 2, 4, 0, 4, 4, 0})
	f.Add([]byte{0, 40, 2, 0, 40, 1, 3, 3, 0})
	f.Add([]byte{5, 1, 0, 4, 3, 0, 0, 40, 0, 0, 40, 1})
	f.Fuzz(func(t *testing.T, steps []byte) {
		const n = 40
		l, sent := testList(t, n), []Run{}
		model, final, allSent := map[int]Hash{}, false, true
		for ; len(steps) >= 3; steps = steps[3:] {
			first, bits := int(steps[0]%50), steps[2]
			end := first + int(steps[1]%50)
			salt := []string{"", "x"}[bits>>1&1]
			r := testRun(n, first, end, salt)
			r.Final = bits&1 != 0
			var envelope []byte
			if bits&4 == 0 {
				envelope = []byte{byte(len(sent))}
			}
			fresh, err := l.Add(r, envelope)
			if err == nil && envelope != nil {
				sent = append(sent, r)
			}
			if len(sent) > 200 {
				return
			}
			replace := r.Final && !final
			var want []int
			conflict := false
			for k, h := range r.Hashes {
				old, ok := model[first+k]
				conflict = conflict || ok && old != h && !replace
				if !ok || old != h {
					want = append(want, first+k)
				}
			}
			switch broken := r.check() != nil; {
			case broken != (err != nil && !isConflict(err)), !broken && conflict != isConflict(err):
				t.Fatalf("Add(%+v) = %v; broken %v, conflict %v", r, err, broken, conflict)
			case err != nil:
				if fresh != nil {
					t.Fatalf("Add failed with %v and has fresh %v", err, fresh)
				}
				continue
			case !slices.Equal(fresh, want):
				t.Fatalf("Add(%d-%d) = %v, want %v", first, end, fresh, want)
			}
			for _, i := range fresh {
				model[i] = r.Hashes[i-first]
			}
			if replace {
				final, allSent = true, envelope != nil
			} else if len(fresh) > 0 && envelope == nil {
				allSent = false
			}
			checkList(t, l, model, final)
			if allSent {
				checkEnvelopes(t, l, sent)
			}
		}
	})
}

func isConflict(err error) bool { return errors.Is(err, ErrConflict) }

func checkList(t *testing.T, l *List, model map[int]Hash, final bool) {
	t.Helper()
	if l.Known() != len(model) || l.Final() != final || l.Complete() != (len(model) == l.g.Count()) {
		t.Fatalf("known %d of %d, final %v, complete %v", l.Known(), len(model), l.Final(), l.Complete())
	}
	for i, want := range model {
		if got, ok := l.Hash(i); !ok || got != want {
			t.Fatalf("Hash(%d) = %s, %v; want %s", i, got, ok, want)
		}
	}
}

// checkEnvelopes has a second list learn from the first one's envelopes.
func checkEnvelopes(t *testing.T, l *List, sent []Run) {
	t.Helper()
	other, first := testList(t, l.g.Count()), -1
	for _, e := range l.Envelopes() {
		r := sent[e[0]]
		if fresh, err := other.Add(r, e); err != nil || r.First <= first || len(fresh) == 0 {
			t.Fatalf("passed on %d-%d after %d: fresh %v, %v", r.First, r.End(), first, fresh, err)
		}
		first = r.First
	}
	if other.Known() != l.Known() || other.Final() != l.Final() {
		t.Fatalf("the envelopes tell %d of %d hashes, final %v", other.Known(), l.Known(), other.Final())
	}
	for i := range l.g.Count() {
		a, _ := l.Hash(i)
		if b, _ := other.Hash(i); a != b {
			t.Fatalf("the envelopes tell another hash of piece %d", i)
		}
	}
}
