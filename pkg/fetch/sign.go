package fetch

import (
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// sealedSpan caches the run that a seeder signs anew for peers that join late:
// everything it knows from piece 0 on, in one envelope.
type sealedSpan struct {
	known int
	envs  [][]byte
}

// A signed run has to fit a control message of 1 MiB. A blob of more pieces
// than a final list can name (above 125 GiB) has none: who gets it hashes it.
const (
	maxRun   = 8192
	maxFinal = 32_000
)

// sign signs the hashes that came in since the last time, passes them on, and
// lets the pieces be given.
func (s *swarm) sign() {
	if s.signTick != nil {
		s.signTick.Stop()
		s.signTick = nil
	}
	if len(s.pending) == 0 {
		return
	}
	s.lastSign = s.e.now()
	slices.Sort(s.pending)
	var envs [][]byte
	for from := 0; from < len(s.pending); {
		to := from + 1
		for to < len(s.pending) && to-from < maxRun && s.pending[to] == s.pending[to-1]+1 {
			to++
		}
		r := piece.Run{Digest: s.digest, Size: s.geom.Size(), First: s.pending[from]}
		for _, i := range s.pending[from:to] {
			r.Hashes = append(r.Hashes, s.unsigned[i])
		}
		if env := s.seal(r); env != nil {
			envs = append(envs, env)
		}
		from = to
	}
	s.relay(envs, "")
	for _, i := range s.pending {
		delete(s.unsigned, i)
		s.gained(i)
	}
	s.pending = s.pending[:0]
	s.saveRuns(false)
}

// seal signs a run and notes it.
func (s *swarm) seal(r piece.Run) []byte {
	env, err := piece.Seal(s.e.o.Key, r)
	if err != nil {
		s.log.Error("cannot sign piece hashes", zap.Error(err))
		return nil
	}
	if _, err := s.hashes.add(r, env); err != nil {
		s.log.Error("a piece has two hashes", zap.Error(err))
		return nil
	}
	return env
}

// signFinal signs the whole list: the digest of the blob was right.
func (s *swarm) signFinal() {
	if s.hashes.final() || !s.hashes.complete() || s.geom.Count() > maxFinal {
		return
	}
	r := piece.Run{Digest: s.digest, Size: s.geom.Size(), Final: true}
	for i := range s.geom.Count() {
		h, _ := s.hashes.get(i)
		r.Hashes = append(r.Hashes, h)
	}
	if env := s.seal(r); env != nil {
		s.saveRuns(true)
		s.relay([][]byte{env}, "")
	}
}

// signStored hashes and signs a blob that the store holds without a list. Its
// pieces are given as they get their hashes, as with a blob that just comes in.
func (s *swarm) signStored() {
	if s.signing || s.hashes.complete() && s.geom.Count() > maxFinal {
		return
	}
	s.signing = true
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		err := s.hashStored()
		s.post(func() {
			s.signing = false
			if errors.As(err, new(*CorruptError)) {
				s.rotten()
				return
			}
			if err != nil {
				s.log.Warn("cannot hash a stored blob", zap.Error(err))
				return
			}
			s.sign()
			s.signFinal()
			s.e.giver.blobUp(s)
		})
	}()
}

// hashStored reads every piece, hashes those whose hash is not known, and
// compares the digest of the whole: nobody who trusts a final list does so again.
func (s *swarm) hashStored() error {
	buf := getBuffer(int(s.geom.PieceSize()))
	defer putBuffer(buf)
	whole := s.digest.Algorithm().Hash()
	for i := range s.geom.Count() {
		p, err := s.blob.ReadPiece(i, *buf)
		if err != nil {
			return err
		}
		whole.Write(p)
		if _, known := s.hashes.get(i); known {
			continue
		}
		h := piece.Sum(p)
		if !s.post(func() { s.fetched(i, h) }) {
			return ErrStopped
		}
	}
	if digest.NewDigest(s.digest.Algorithm(), whole) != s.digest {
		return &CorruptError{Digest: s.digest}
	}
	return nil
}

// rotten ends the swarm of a stored blob that is not what its digest says: what
// was signed of it is taken back, and the store looks at it for itself.
func (s *swarm) rotten() {
	s.revoke()
	s.e.giver.blobDown(s)
	s.hashes.init(s.digest, s.geom)
	s.pending, s.stop = nil, true
	if err := s.blob.SetRuns(nil); err != nil {
		s.log.Warn("cannot drop the hashes of a damaged blob", zap.Error(err))
	}
	s.wg.Go(func() {
		if _, err := s.e.o.Store.Check(s.digest, func(int) error { return nil }); err != nil {
			s.log.Error("a stored blob is damaged", zap.Error(err))
		}
	})
}

// givable is what this host gives: a seeder only what it has signed, since
// nobody could check the rest.
func (s *swarm) givable() (have *piece.Bitfield, growing bool) {
	have = s.blob.Have()
	if !s.e.o.Seeder {
		return have, !s.blob.Complete()
	}
	for i := range have.Clone().All() {
		if _, signed := s.hashes.get(i); !signed {
			have.Clear(i)
		}
	}
	return have, !have.Full()
}

// runsFor is what a peer that joins is told: the final list, or what is known
// so far. A seeder signs what it knows anew, in as few runs as it can.
func (s *swarm) runsFor() [][]byte {
	if !s.e.o.Seeder || s.hashes.final() {
		return s.hashes.envelopes()
	}
	known := s.hashes.known()
	if known == s.sealed.known {
		return s.sealed.envs
	}
	var envs [][]byte
	for i := 0; i < s.geom.Count(); {
		r := piece.Run{Digest: s.digest, Size: s.geom.Size(), First: i}
		for ; i < s.geom.Count() && len(r.Hashes) < maxRun; i++ {
			h, ok := s.hashes.get(i)
			if !ok {
				break
			}
			r.Hashes = append(r.Hashes, h)
		}
		if len(r.Hashes) == 0 {
			i++
			continue
		}
		env, err := piece.Seal(s.e.o.Key, r)
		if err != nil {
			s.log.Error("cannot sign piece hashes", zap.Error(err))
			return nil
		}
		envs = append(envs, env)
	}
	s.sealed = sealedSpan{known: known, envs: envs}
	return envs
}

// revoke tells the members that the bytes this seeder vouched for are wrong.
func (s *swarm) revoke() {
	env, err := piece.SealRevocation(s.e.o.Key, s.digest)
	if err != nil {
		s.log.Error("cannot sign a revocation", zap.Error(err))
		return
	}
	for _, m := range s.members {
		_ = s.e.network().Send(m.id, p2p.Revoke{Digest: s.digest, Envelope: env})
	}
}
