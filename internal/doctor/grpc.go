package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxMessage bounds an answer of a runtime, in bytes.
const maxMessage = 32 << 20

// socketClient speaks HTTP to a Unix socket: of version 2 without TLS, as gRPC
// wants it, or of version 1.1.
func socketClient(socket string, grpc bool) *http.Client {
	tr := &http.Transport{DisableKeepAlives: !grpc, Protocols: new(http.Protocols), MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "unix", socket)
		}}
	tr.Protocols.SetHTTP1(!grpc)
	tr.Protocols.SetUnencryptedHTTP2(grpc)
	return &http.Client{Transport: tr}
}

// grpcError is what a gRPC server says that fails.
type grpcError struct {
	code    int
	message string
}

// Error says what the server said.
func (e *grpcError) Error() string { return e.message }

// unimplemented is the status of a method that a server does not have.
const unimplemented = 12

// unary calls a method of a gRPC server. The four calls that are made here need no
// more of the protocol than this, and gRPC's own library is as large as peerd's
// mirror.
func unary(ctx context.Context, c *http.Client, method string, header map[string]string, request []byte) ([]byte, error) {
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))) // 0: not compressed
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://runtime/"+method, bytes.NewReader(append(frame, request...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	if deadline, ok := ctx.Deadline(); ok {
		req.Header.Set("Grpc-Timeout", strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10)+"m")
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, bare(err)
	}
	defer resp.Body.Close() // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s, as no gRPC server does", resp.Status)
	}
	status, message := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a body has all in its header
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if code, err := strconv.Atoi(status); err != nil || code != 0 {
		if text, err := url.PathUnescape(message); err == nil {
			message = text
		}
		return nil, &grpcError{code, message}
	}
	if len(body) < 5 || body[0] != 0 || len(body) > maxMessage || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 {
		return nil, errors.New("answered what is no gRPC message")
	}
	return body[5:], nil
}

// field is one of a protobuf message.
type field struct {
	num    protowire.Number
	bytes  []byte // of strings, bytes and messages
	varint uint64
}

// fields are those of a protobuf message that have bytes or are integers.
func fields(msg []byte) ([]field, error) {
	var out []field
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		msg = msg[n:]
		f := field{num: num}
		switch typ {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(msg)
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		msg = msg[n:]
		out = append(out, f)
	}
	return out, nil
}

// message is a protobuf message with one field of bytes.
func message(num protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), content)
}

// bare is an HTTP client's error without the URL.
func bare(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}
