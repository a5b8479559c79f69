package piece

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/opencontainers/go-digest"
)

func testSeed(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func TestSealRefuses(t *testing.T) {
	key, _ := keyOf(t, testSeed(1))
	other, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("blob")
	h := make([]Hash, 3)
	const size = 3 * MinSize
	for _, c := range []struct {
		name string
		key  crypto.PrivKey
		run  Run
	}{
		{"no key", nil, Run{Digest: d, Size: size, Hashes: h}},
		{"not Ed25519", other, Run{Digest: d, Size: size, Hashes: h}},
		{"zero run", key, Run{}},
		{"no digest", key, Run{Size: size, Hashes: h}},
		{"md5", key, Run{Digest: "md5:d41d8cd98f00b204e9800998ecf8427e", Size: size, Hashes: h}},
		{"sha384", key, Run{Digest: digest.SHA384.FromString("x"), Size: size, Hashes: h}},
		{"digest with a path", key, Run{Digest: "sha256:../../etc/passwd", Size: size, Hashes: h}},
		{"negative size", key, Run{Digest: d, Size: -1, Hashes: h}},
		{"size too large", key, Run{Digest: d, Size: MaxBlobSize + 1, Hashes: h}},
		{"negative first", key, Run{Digest: d, Size: size, First: -1, Hashes: h[:1]}},
		{"first at the end", key, Run{Digest: d, Size: size, First: 3}},
		{"past the end", key, Run{Digest: d, Size: size, First: 1, Hashes: h}},
		{"first overflows", key, Run{Digest: d, Size: size, First: 1<<63 - 1, Hashes: h}},
		{"no hash", key, Run{Digest: d, Size: size}},
		{"final in part", key, Run{Digest: d, Size: size, Hashes: h[:2], Final: true}},
		{"final from the middle", key, Run{Digest: d, Size: size, First: 1, Hashes: h[:2], Final: true}},
		{"empty blob, provisional", key, Run{Digest: d}},
		{"empty blob, a hash", key, Run{Digest: d, Hashes: h[:1], Final: true}},
	} {
		if b, err := Seal(c.key, c.run); err == nil {
			t.Errorf("%s: Seal = %x, want an error", c.name, b)
		} else if !strings.HasPrefix(err.Error(), "piece: seal run: ") {
			t.Errorf("%s: error has no operation: %v", c.name, err)
		}
	}
	if _, err := SealRevocation(key, "sha256:0"); err == nil {
		t.Error("SealRevocation of a bad digest: want an error")
	}
	if _, err := SealRevocation(other, d); err == nil {
		t.Error("SealRevocation with an ECDSA key: want an error")
	}
}

// The largest run there may be still fits in the largest envelope.
func TestMaxEnvelopeSize(t *testing.T) {
	key, _ := keyOf(t, testSeed(1))
	r := Run{Digest: digest.SHA512.FromString("x"), Size: MaxBlobSize, Hashes: make([]Hash, MaxBlobSize/MaxSize), Final: true}
	b, err := Seal(key, r)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > MaxEnvelopeSize {
		t.Errorf("envelope has %d bytes, bound is %d", len(b), MaxEnvelopeSize)
	}
	if got, _, err := Open(b); err != nil || !slices.Equal(got.Hashes, r.Hashes) {
		t.Errorf("Open of the largest run: %d hashes, %v", len(got.Hashes), err)
	}
	if _, _, err := Open(append(b, make([]byte, MaxEnvelopeSize)...)); err == nil {
		t.Error("Open of an envelope above the bound: want an error")
	}
}

// No byte of an envelope can change without notice.
func TestOpenEveryByteCounts(t *testing.T) {
	key, _ := keyOf(t, testSeed(1))
	b, err := Seal(key, Run{Digest: digest.FromString("x"), Size: 1, Hashes: []Hash{{}}, Final: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for bit := range 8 {
			bad := bytes.Clone(b)
			bad[i] ^= 1 << bit
			if _, _, err := Open(bad); err == nil {
				t.Errorf("bit %d of byte %d is flipped and Open did not notice", bit, i)
			}
		}
		if _, _, err := Open(b[:i]); err == nil {
			t.Errorf("cut to %d bytes and Open did not notice", i)
		}
	}
}

// An Ed25519 seeder's word is not to be had with another kind of key.
func TestOpenRefusesOtherKeys(t *testing.T) {
	other, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := Run{Digest: digest.FromString("x"), Size: 1, Hashes: []Hash{{}}}.marshal()
	if err != nil {
		t.Fatal(err)
	}
	b := sealWith(t, other, payload)
	if _, _, err := Open(b); err == nil {
		t.Error("Open of a run signed with an ECDSA key: want an error")
	}
}

func TestRunAndRevocationDoNotMix(t *testing.T) {
	key, _ := keyOf(t, testSeed(1))
	d := digest.FromString("x")
	run, err := Seal(key, Run{Digest: d, Size: 1, Hashes: []Hash{{}}})
	if err != nil {
		t.Fatal(err)
	}
	revocation, err := SealRevocation(key, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(revocation); err == nil {
		t.Error("Open of a revocation: want an error")
	}
	if _, _, err := OpenRevocation(run); err == nil {
		t.Error("OpenRevocation of a run: want an error")
	}
}

func TestBlobCIDRefuses(t *testing.T) {
	for _, d := range []digest.Digest{"", "sha256:", "sha256:zz", digest.SHA384.FromString("x"), "sha256:" + digest.Digest(strings.Repeat("A", 64))} {
		if c, err := BlobCID(d); err == nil {
			t.Errorf("BlobCID(%q) = %s, want an error", d, c)
		}
	}
}
