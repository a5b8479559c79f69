package piece

import (
	"bytes"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// testKey is the Ed25519 key whose seed is 32 times the byte b.
func testKey(t testing.TB, b byte) (crypto.PrivKey, peer.ID) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, id
}

func TestSealOpen(t *testing.T) {
	key, id := testKey(t, 1)
	d := digest.FromString("blob")
	r := Run{Digest: d, Size: 3 * MinSize, First: 1, Hashes: []Hash{Sum([]byte("a")), Sum([]byte("b"))}}
	env, err := Seal(key, r)
	if err != nil {
		t.Fatal(err)
	}
	got, signer, err := Open(env)
	if err != nil {
		t.Fatal(err)
	}
	if signer != id || got.Digest != d || got.First != 1 || len(got.Hashes) != 2 || got.Hashes[1] != r.Hashes[1] {
		t.Errorf("Open = %+v, %s", got, signer)
	}
	g, _ := GeometryOf(r.Size)
	l := NewList(d, g)
	if fresh, err := l.Add(got, env); err != nil || len(fresh) != 2 {
		t.Errorf("Add = %v, %v", fresh, err)
	}
}
