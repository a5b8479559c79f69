package piece

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/piece/internal/pb"
)

// Run is a run of consecutive piece hashes that a seeder vouches for: "pieces
// First, First+1, ... of the blob Digest, which has Size bytes, hash to
// Hashes". It has at least one hash, unless the blob is empty.
type Run struct {
	Digest digest.Digest
	Size   int64 // of the blob, in bytes
	First  int   // the piece that Hashes[0] is of
	Hashes []Hash

	// Final says that the seeder has checked the digest of the whole blob
	// against these hashes. Only a run of all hashes can be final; that of an
	// empty blob always is. Until then the run is provisional: its pieces may
	// be passed on, but the blob's digest has to be checked before commit.
	Final bool
}

// End is the piece after the last one the run has a hash of.
func (r Run) End() int { return r.First + len(r.Hashes) }

// check tells whether r says something that can be true.
func (r Run) check() error {
	if _, err := checkDigest(r.Digest); err != nil {
		return err
	}
	g, err := GeometryOf(r.Size)
	if err != nil {
		return err
	}
	n := g.Count()
	switch {
	case r.First < 0 || r.First > n || len(r.Hashes) > n-r.First:
		return fmt.Errorf("%d hashes from piece %d on are outside the blob's %d pieces", len(r.Hashes), r.First, n)
	case n > 0 && len(r.Hashes) == 0:
		return errors.New("run has no hash")
	case r.Final && len(r.Hashes) != n:
		return fmt.Errorf("run is final with %d of %d hashes", len(r.Hashes), n)
	case n == 0 && !r.Final:
		return errors.New("run of an empty blob is not final")
	}
	return nil
}

func (r Run) marshal() ([]byte, error) {
	hashes := make([]byte, 0, len(r.Hashes)*HashSize)
	for _, h := range r.Hashes {
		hashes = append(hashes, h[:]...)
	}
	return canonical.Marshal(&pb.Run{
		Digest: string(r.Digest),
		Size:   uint64(r.Size),
		First:  uint32(r.First),
		Hashes: hashes,
		Final:  r.Final,
	})
}

func unmarshalRun(payload []byte) (Run, error) {
	var m pb.Run
	if err := decode(payload, &m); err != nil {
		return Run{}, err
	}
	if m.Size > MaxBlobSize {
		return Run{}, fmt.Errorf("blob size %d is above %d", m.Size, int64(MaxBlobSize))
	}
	if len(m.Hashes)%HashSize != 0 {
		return Run{}, fmt.Errorf("%d bytes of hashes are no multiple of %d", len(m.Hashes), HashSize)
	}
	if m.First > MaxBlobSize/MaxSize {
		return Run{}, fmt.Errorf("first piece %d is above %d", m.First, MaxBlobSize/MaxSize)
	}
	r := Run{Digest: digest.Digest(m.Digest), Size: int64(m.Size), First: int(m.First), Final: m.Final}
	if n := len(m.Hashes) / HashSize; n > 0 {
		r.Hashes = make([]Hash, n)
		for i := range r.Hashes {
			copy(r.Hashes[i][:], m.Hashes[i*HashSize:])
		}
	}
	return r, r.check()
}

// canonical is how payloads are written. proto.Marshal writes fields by number;
// the golden vectors hold it to that.
var canonical = proto.MarshalOptions{Deterministic: true}

// decode reads a payload into m and refuses bytes that m would not be written as.
func decode(payload []byte, m proto.Message) error {
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, m); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	again, err := canonical.Marshal(m)
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if string(again) != string(payload) {
		return errNotCanonical
	}
	return nil
}

var errNotCanonical = errors.New("encoding is not the canonical one")
