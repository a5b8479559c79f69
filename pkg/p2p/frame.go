package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// errFrame reports bytes on a control stream that are no frame.
var errFrame = errors.New("p2p: malformed frame")

// appendFrame appends f's wire form, a varint length and the protobuf.
func appendFrame(b []byte, f *pb.Frame) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(proto.Size(f)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, f)
}

// readFrame reads one frame of at most maxMessage bytes and tells its size on
// the wire. scratch is reused between calls; the frame keeps no part of it.
func readFrame(r *bufio.Reader, scratch *[]byte) (*pb.Frame, int, error) {
	n, err := readUvarint(r)
	if err != nil {
		return nil, 0, err
	}
	if n > maxMessage {
		return nil, 0, fmt.Errorf("%w: %d bytes announced, at most %d allowed", errFrame, n, maxMessage)
	}
	// Memory follows the bytes that came, not the length that was claimed.
	b := (*scratch)[:0]
	for len(b) < int(n) {
		step := min(int(n)-len(b), max(len(b), 4<<10))
		b = append(b, make([]byte, step)...)
		if _, err := io.ReadFull(r, b[len(b)-step:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, 0, err
		}
	}
	if cap(b) <= 64<<10 {
		*scratch = b
	}
	f := new(pb.Frame)
	if err := proto.Unmarshal(b, f); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errFrame, err)
	}
	return f, int(n) + 1, nil
}

// readUvarint reads a length: at most 4 bytes, in its shortest form.
func readUvarint(r io.ByteReader) (uint64, error) {
	var x uint64
	for i := range 4 {
		c, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && i > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		x |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return 0, fmt.Errorf("%w: length not in its shortest form", errFrame)
			}
			return x, nil
		}
	}
	return 0, fmt.Errorf("%w: length of more than 4 bytes", errFrame)
}
