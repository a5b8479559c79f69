package store

// OnStep calls f wherever a crash would be of interest. Set it before use.
func (s *Store) OnStep(f func(name string)) { s.step = f }

// DecodeRuns and EncodeRuns give the fuzz test access to the runs file's format.
func DecodeRuns(b []byte) ([][]byte, int) { return decodeRuns(b) }

func EncodeRuns(envelopes [][]byte) []byte { return encodeRuns(envelopes) }

// DecodeMeta tells whether b is a good meta file.
func DecodeMeta(b []byte) bool { _, err := decodeMeta(b); return err == nil }
