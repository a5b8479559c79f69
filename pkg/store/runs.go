package store

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
)

// The runs file is a magic line and then one frame per envelope: length (4
// bytes, big endian), CRC-32C of the payload (4 bytes), payload. New envelopes
// are appended; a frame torn by a crash ends the list and is cut off.
const (
	runsMagic = "samara-runs 1\n"
	frameHead = 8

	// maxEnvelope bounds what a damaged length makes us read. A final run over
	// the largest blob is 8 MiB of hashes.
	maxEnvelope = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendFrame(b, envelope []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(envelope)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(envelope, castagnoli))
	return append(b, envelope...)
}

func encodeRuns(envelopes [][]byte) []byte {
	b := []byte(runsMagic)
	for _, e := range envelopes {
		b = appendFrame(b, e)
	}
	return b
}

// decodeRuns returns the whole envelopes at the start of b and how many bytes
// of b they take; 0 bytes where b does not even start as a runs file.
func decodeRuns(b []byte) (envelopes [][]byte, good int) {
	if !bytes.HasPrefix(b, []byte(runsMagic)) {
		return nil, 0
	}
	good = len(runsMagic)
	for {
		rest := b[good:]
		if len(rest) < frameHead {
			return envelopes, good
		}
		n := binary.BigEndian.Uint32(rest)
		if n > maxEnvelope || int(n) > len(rest)-frameHead {
			return envelopes, good
		}
		e := rest[frameHead : frameHead+int(n)]
		if crc32.Checksum(e, castagnoli) != binary.BigEndian.Uint32(rest[4:]) {
			return envelopes, good
		}
		envelopes = append(envelopes, e[:len(e):len(e)])
		good += frameHead + int(n)
	}
}

// SetRuns replaces the signed runs kept with the blob. They survive restart
// and commit. The store keeps a reference to the envelopes and never looks
// into them. A list that only grew at its end is appended to the file.
// Errors: ErrNotFound, ErrClosed, ErrFull.
func (b *Blob) SetRuns(envelopes [][]byte) error {
	st := b.st
	st.side.Lock()
	defer st.side.Unlock()
	if err := b.alive(); err != nil {
		return err
	}
	st.loadRuns()
	path := filepath.Join(st.dir, runsName)
	same := 0
	for same < min(len(st.runs), len(envelopes)) && bytes.Equal(st.runs[same], envelopes[same]) {
		same++
	}
	fresh := envelopes[same:]
	if same == len(st.runs) && len(fresh) == 0 {
		return nil
	}
	var err error
	if same == len(st.runs) && st.runsLen > 0 {
		err = st.appendRuns(path, fresh)
	} else {
		all := encodeRuns(envelopes)
		if err = replaceFile(path, all, st.isComplete()); err == nil {
			st.runsLen = int64(len(all))
		}
	}
	if err != nil {
		st.runs, st.runsLen, st.runsKnown = nil, 0, false // read again what is really there
		return st.s.writeError("set runs", st, 0, err)
	}
	st.runs = append(st.runs[:same:same], fresh...)
	return nil
}

// appendRuns writes frames behind those that are known to be whole.
func (st *state) appendRuns(path string, fresh [][]byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, filePerm)
	if err != nil {
		return err
	}
	defer f.Close()
	var frames []byte
	for _, e := range fresh {
		frames = appendFrame(frames, e)
	}
	if _, err := f.WriteAt(frames, st.runsLen); err != nil {
		return err
	}
	st.runsLen += int64(len(frames))
	return nil
}

// Runs returns the signed runs kept with the blob, nil if there are none. The
// caller must not change them.
func (b *Blob) Runs() [][]byte {
	st := b.st
	st.side.Lock()
	defer st.side.Unlock()
	st.loadRuns()
	return st.runs[:len(st.runs):len(st.runs)]
}

// loadRuns reads the runs file once per pinning. The caller holds side.
// A file that cannot be read counts as no runs: they can be had anew.
func (st *state) loadRuns() {
	if st.runsKnown {
		return
	}
	st.runsKnown = true
	st.runs, st.runsLen = readRuns(st.dir)
}

func readRuns(dir string) (envelopes [][]byte, size int64) {
	b, err := os.ReadFile(filepath.Join(dir, runsName))
	if err != nil {
		return nil, 0
	}
	envelopes, good := decodeRuns(b)
	if good < len(b) && good > 0 {
		// A torn tail: later frames must not be appended behind it unseen.
		if os.Truncate(filepath.Join(dir, runsName), int64(good)) != nil {
			return envelopes, 0
		}
	}
	return envelopes, int64(good)
}
