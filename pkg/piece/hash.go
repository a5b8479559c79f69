package piece

import (
	"crypto/sha256"
	_ "crypto/sha512" // go-digest accepts only algorithms that are linked in
	"encoding/hex"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/opencontainers/go-digest"
)

// HashSize is the length of a Hash in bytes.
const HashSize = sha256.Size

// Hash is the SHA-256 of a piece's bytes.
type Hash [HashSize]byte

// Sum returns the hash of the piece p.
func Sum(p []byte) Hash { return sha256.Sum256(p) }

// String returns h in lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// BlobCID returns the key under which a blob is provided on the DHT: a CID of
// version 1 with the raw codec, whose multihash is the OCI digest itself. It
// fails for a digest that is malformed or neither SHA-256 nor SHA-512.
func BlobCID(d digest.Digest) (cid.Cid, error) {
	code, err := checkDigest(d)
	if err != nil {
		return cid.Undef, fmt.Errorf("piece: CID of a blob: %w", err)
	}
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return cid.Undef, fmt.Errorf("piece: CID of a blob: %w", err)
	}
	mh, err := multihash.Encode(raw, code)
	if err != nil {
		return cid.Undef, fmt.Errorf("piece: CID of a blob: %w", err)
	}
	return cid.NewCidV1(cid.Raw, mh), nil
}

// checkDigest tells whether blobs may go by the digest d, and gives the
// multihash code of its algorithm.
func checkDigest(d digest.Digest) (code uint64, err error) {
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("digest %.150q: %w", d, err)
	}
	switch d.Algorithm() {
	case digest.SHA256:
		return multihash.SHA2_256, nil
	case digest.SHA512:
		return multihash.SHA2_512, nil
	}
	return 0, fmt.Errorf("digest %.150q: algorithm is neither sha256 nor sha512", d)
}
