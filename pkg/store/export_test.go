package store

import "github.com/opencontainers/go-digest"

// OnStep calls f wherever a crash would be of interest. Set it before use.
func (s *Store) OnStep(f func(name string)) { s.step = f }

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
