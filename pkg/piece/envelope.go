package piece

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/piece/internal/pb"
)

// MaxEnvelopeSize bounds what Open and OpenRevocation read and what Seal
// writes, in bytes: the hashes of the largest blob and 1 KiB for the rest.
const MaxEnvelopeSize = MaxBlobSize/MaxSize*HashSize + 1<<10

// What an envelope is signed for. The payload type is part of what is signed,
// so a revocation can never pass as a run.
const (
	envelopeDomain = "samara-piece-run"
	typeRun        = "/samara/piece-run"
	typeRevocation = "/samara/piece-revocation"
)

// Seal returns r signed with key, as an envelope that anybody may pass on. It
// fails where Open would: key is no Ed25519 key, or r breaks a rule of Run.
func Seal(key crypto.PrivKey, r Run) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("piece: seal run: %w", err)
	}
	payload, err := r.marshal()
	if err != nil {
		return nil, fmt.Errorf("piece: seal run: %w", err)
	}
	b, err := seal(key, typeRun, payload)
	if err != nil {
		return nil, fmt.Errorf("piece: seal run: %w", err)
	}
	return b, nil
}

// Open checks envelope, its signature and every bound of the run in it, and
// returns that run with the peer ID of who signed it. Whether to trust that
// peer is the caller's decision; until then nothing in the run is true. It
// keeps no reference to envelope.
//
// Only the canonical encoding is taken, so nobody but the signer can make other
// bytes of the same run.
func Open(envelope []byte) (Run, peer.ID, error) {
	payload, signer, err := open(envelope, typeRun)
	if err != nil {
		return Run{}, "", fmt.Errorf("piece: open run: %w", err)
	}
	r, err := unmarshalRun(payload)
	if err != nil {
		return Run{}, "", fmt.Errorf("piece: open run: %w", err)
	}
	return r, signer, nil
}

// SealRevocation returns the statement, signed with key, that every provisional
// run which key signed for the blob d so far is void: its bytes turned out not
// to have the digest d.
func SealRevocation(key crypto.PrivKey, d digest.Digest) ([]byte, error) {
	if _, err := checkDigest(d); err != nil {
		return nil, fmt.Errorf("piece: seal revocation: %w", err)
	}
	payload, err := canonical.Marshal(&pb.Revocation{Digest: string(d)})
	if err != nil {
		return nil, fmt.Errorf("piece: seal revocation: %w", err)
	}
	b, err := seal(key, typeRevocation, payload)
	if err != nil {
		return nil, fmt.Errorf("piece: seal revocation: %w", err)
	}
	return b, nil
}

// OpenRevocation checks envelope as Open does and returns the digest of the
// blob whose provisional runs the signer revokes. It says nothing about runs of
// other signers, nor about a final run: that one rests on a checked digest.
func OpenRevocation(envelope []byte) (digest.Digest, peer.ID, error) {
	payload, signer, err := open(envelope, typeRevocation)
	if err != nil {
		return "", "", fmt.Errorf("piece: open revocation: %w", err)
	}
	var m pb.Revocation
	if err := decode(payload, &m); err != nil {
		return "", "", fmt.Errorf("piece: open revocation: %w", err)
	}
	d := digest.Digest(m.Digest)
	if _, err := checkDigest(d); err != nil {
		return "", "", fmt.Errorf("piece: open revocation: %w", err)
	}
	return d, signer, nil
}

var errKey = errors.New("signing key is not an Ed25519 key")

// seal signs a payload. Ed25519 only: its signatures are deterministic and
// cannot be altered into other valid ones, so equal runs are equal bytes.
func seal(key crypto.PrivKey, typ string, payload []byte) ([]byte, error) {
	if key == nil || key.Type() != crypto.Ed25519 {
		return nil, errKey
	}
	e, err := record.Seal(&sealed{typ: typ, payload: payload}, key)
	if err != nil {
		return nil, err
	}
	return e.Marshal()
}

// open returns the payload of an envelope of type typ, and its signer.
func open(envelope []byte, typ string) ([]byte, peer.ID, error) {
	if len(envelope) > MaxEnvelopeSize {
		return nil, "", fmt.Errorf("envelope of %d bytes is above %d", len(envelope), MaxEnvelopeSize)
	}
	rec := sealed{typ: typ}
	e, err := record.ConsumeTypedEnvelope(envelope, &rec)
	if err != nil {
		return nil, "", err
	}
	if string(e.PayloadType) != typ {
		return nil, "", fmt.Errorf("payload type is %.40q, want %q", e.PayloadType, typ)
	}
	if e.PublicKey.Type() != crypto.Ed25519 {
		return nil, "", errKey
	}
	again, err := e.Marshal()
	if err != nil {
		return nil, "", err
	}
	if string(again) != string(envelope) {
		return nil, "", errNotCanonical
	}
	signer, err := peer.IDFromPublicKey(e.PublicKey)
	if err != nil {
		return nil, "", err
	}
	return rec.payload, signer, nil
}

// sealed carries payload bytes through libp2p's record.Record interface.
type sealed struct {
	typ     string
	payload []byte
}

func (s *sealed) Domain() string                 { return envelopeDomain }
func (s *sealed) Codec() []byte                  { return []byte(s.typ) }
func (s *sealed) MarshalRecord() ([]byte, error) { return s.payload, nil }
func (s *sealed) UnmarshalRecord(b []byte) error { s.payload = b; return nil }
