package piece

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// vectors is testdata/vectors.json, which testdata/vectors.py writes from the
// page docs/protocol/piece.md without any of this package's code.
type vectors struct {
	Geometry []struct {
		Size, PieceSize int64
		Pieces          int
		LastPiece       int
	}
	GeometryRefused []int64
	Bitfield        []struct {
		Pieces int
		Set    []int
		Hex    string
	}
	BitfieldRefused []struct {
		Pieces int
		Hex    string
	}
	CID    []struct{ Digest, Bytes, CID string }
	Blob   struct{ Pieces []string }
	Signer struct{ Seed, Peer string }
	Run    []struct {
		Name, Digest string
		Size         int64
		First        int
		Hashes       []string
		Final        bool
		Envelope     string
	}
	Revocation []struct{ Digest, Envelope string }
	Refused    []struct{ Why, Envelope string }
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhexHashes(t testing.TB, ss []string) []Hash {
	t.Helper()
	var hashes []Hash
	for _, s := range ss {
		hashes = append(hashes, Hash(unhex(t, s)))
	}
	return hashes
}

// keyOf is the key of an Ed25519 seed (RFC 8032), and its peer ID.
func keyOf(t testing.TB, seed []byte) (crypto.PrivKey, peer.ID) {
	t.Helper()
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, id
}

func TestVectorsGeometry(t *testing.T) {
	v := readVectors(t)
	for _, c := range v.Geometry {
		g, err := GeometryOf(c.Size)
		if err != nil {
			t.Errorf("GeometryOf(%d): %v", c.Size, err)
			continue
		}
		if g.Size() != c.Size || g.PieceSize() != c.PieceSize || g.Count() != c.Pieces || g.Len(g.Count()-1) != c.LastPiece {
			t.Errorf("GeometryOf(%d) = %d pieces of %d bytes, the last of %d; want %d, %d, %d",
				c.Size, g.Count(), g.PieceSize(), g.Len(g.Count()-1), c.Pieces, c.PieceSize, c.LastPiece)
		}
	}
	for _, size := range v.GeometryRefused {
		if g, err := GeometryOf(size); err == nil {
			t.Errorf("GeometryOf(%d) = %+v, want an error", size, g)
		}
	}
}

func TestVectorsBitfield(t *testing.T) {
	v := readVectors(t)
	for _, c := range v.Bitfield {
		f := NewBitfield(c.Pieces)
		for _, i := range c.Set {
			f.Set(i)
		}
		if got := hex.EncodeToString(f.Bytes()); got != c.Hex {
			t.Errorf("%v of %d pieces: bytes are %s, want %s", c.Set, c.Pieces, got, c.Hex)
		}
		back, err := BitfieldFromBytes(c.Pieces, unhex(t, c.Hex))
		if err != nil || !slices.Equal(slices.Collect(back.All()), c.Set) {
			t.Errorf("BitfieldFromBytes(%d, %s) = %v, %v; want %v", c.Pieces, c.Hex, back, err, c.Set)
		}
	}
	for _, c := range v.BitfieldRefused {
		if _, err := BitfieldFromBytes(c.Pieces, unhex(t, c.Hex)); err == nil {
			t.Errorf("BitfieldFromBytes(%d, %s): want an error", c.Pieces, c.Hex)
		}
	}
}

func TestVectorsCID(t *testing.T) {
	for _, c := range readVectors(t).CID {
		got, err := BlobCID(digest.Digest(c.Digest))
		if err != nil || got.String() != c.CID || hex.EncodeToString(got.Bytes()) != c.Bytes {
			t.Errorf("BlobCID(%s) = %v, %v; want %s", c.Digest, got, err, c.CID)
		}
	}
}

func TestVectorsPieceHashes(t *testing.T) {
	blob := make([]byte, 600_000)
	for i := range blob {
		blob[i] = byte(i % 251)
	}
	g, err := GeometryOf(int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	var got []Hash
	for i := range g.Count() {
		got = append(got, Sum(blob[g.Offset(i):][:g.Len(i)]))
	}
	if want := unhexHashes(t, readVectors(t).Blob.Pieces); !slices.Equal(got, want) {
		t.Errorf("piece hashes are %v, want %v", got, want)
	}
}

func TestVectorsRun(t *testing.T) {
	v := readVectors(t)
	key, id := keyOf(t, unhex(t, v.Signer.Seed))
	if id.String() != v.Signer.Peer {
		t.Fatalf("peer ID is %s, want %s", id, v.Signer.Peer)
	}
	for _, c := range v.Run {
		t.Run(c.Name, func(t *testing.T) {
			want := Run{Digest: digest.Digest(c.Digest), Size: c.Size, First: c.First, Hashes: unhexHashes(t, c.Hashes), Final: c.Final}
			envelope, err := Seal(key, want)
			if err != nil || hex.EncodeToString(envelope) != c.Envelope {
				t.Errorf("Seal = %x, %v; want %s", envelope, err, c.Envelope)
			}
			got, signer, err := Open(unhex(t, c.Envelope))
			if err != nil || signer != id || !reflect.DeepEqual(got, want) {
				t.Errorf("Open = %+v, %s, %v; want %+v, %s", got, signer, err, want, id)
			}
		})
	}
}

func TestVectorsRevocation(t *testing.T) {
	v := readVectors(t)
	key, id := keyOf(t, unhex(t, v.Signer.Seed))
	for _, c := range v.Revocation {
		envelope, err := SealRevocation(key, digest.Digest(c.Digest))
		if err != nil || hex.EncodeToString(envelope) != c.Envelope {
			t.Errorf("SealRevocation(%s) = %x, %v; want %s", c.Digest, envelope, err, c.Envelope)
		}
		d, signer, err := OpenRevocation(unhex(t, c.Envelope))
		if err != nil || signer != id || d.String() != c.Digest {
			t.Errorf("OpenRevocation = %s, %s, %v; want %s, %s", d, signer, err, c.Digest, id)
		}
	}
}

func TestVectorsRefused(t *testing.T) {
	for _, c := range readVectors(t).Refused {
		if r, _, err := Open(unhex(t, c.Envelope)); err == nil {
			t.Errorf("%s: Open = %+v, want an error", c.Why, r)
		} else {
			t.Logf("%s: %v", c.Why, err)
		}
	}
}

// The page's worked example is the first run of the vectors, byte by byte.
func TestProtocolPageExample(t *testing.T) {
	page, err := os.ReadFile("../../docs/protocol/piece.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```hex\n")
	example, _, _ = strings.Cut(example, "```")
	var got strings.Builder
	for line := range strings.Lines(example) {
		bytes, _, _ := strings.Cut(line, "#")
		got.WriteString(strings.TrimSpace(bytes))
	}
	if want := readVectors(t).Run[0].Envelope; got.String() != want {
		t.Errorf("the page has the envelope\n%s, want\n%s", got.String(), want)
	}
}
