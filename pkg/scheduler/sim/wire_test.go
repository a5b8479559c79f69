package sim

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// TestSizes holds what messages are taken to cost against their encoding.
func TestSizes(t *testing.T) {
	const around = tlsRecord + 12 // TLS, yamux
	dg := "sha256:" + strings.Repeat("0", 64)
	field := make([]byte, 128)
	peer := func() *pb.PeerInfo { return &pb.PeerInfo{Id: make([]byte, 38), Addrs: [][]byte{make([]byte, 8)}} }
	frame := func(f *pb.Frame) int { n := proto.Size(f); return around + varint(n) + n }
	askBody, err := proto.Marshal(&pb.Ask{Pieces: []uint32{1000}, Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	busyBody, err := proto.Marshal(&pb.Busy{Try: []*pb.PeerInfo{peer(), peer(), peer(), peer()}})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, "http://peer/samara/v1/blobs/"+dg+"/pieces", bytes.NewReader(askBody))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "")
	var sent bytes.Buffer
	if err := request.Write(&sent); err != nil {
		t.Fatal(err)
	}
	answer := func(status int, header map[string]string, body []byte) int {
		h := http.Header{}
		for k, v := range header {
			h.Set(k, v)
		}
		r := http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: h, ContentLength: 262144, Body: http.NoBody}
		if body != nil {
			r.ContentLength = int64(len(body))
		}
		var b bytes.Buffer
		_ = r.Write(&b) // a body that is not there is an error, after the head
		return tlsRecord + b.Len() + len(body)
	}
	for _, c := range []struct {
		what       string
		want, took int
	}{
		{"join", frame(&pb.Frame{Body: &pb.Frame_Join{Join: &pb.Join{Digest: dg, Size: 256 * MiB, Source: "docker.io/library/python", Have: field, WantPeers: 30}}}), sizeJoin + 128},
		{"state", frame(&pb.Frame{Body: &pb.Frame_State{State: &pb.State{Digest: dg, Size: 256 * MiB, Have: field}}}), sizeState + 128},
		{"have", frame(&pb.Frame{Body: &pb.Frame_Have{Have: &pb.Have{Pieces: []uint32{5, 500, 1000}, Ref: 1}}}), sizeHave + pieceList([]int{5, 500, 1000})},
		{"peers", frame(&pb.Frame{Body: &pb.Frame_Peers{Peers: &pb.Peers{Digest: dg, Peers: []*pb.PeerInfo{peer(), peer()}}}}), sizePeers + 2*sizePeer},
		{"ask", tlsRecord + sent.Len(), sizeAsk + pieceList([]int{1000})},
		{"granted", answer(200, map[string]string{"Samara-Pieces": "1000:262144"}, nil), sizeGranted + digits(1000) + digits(262144) + 2},
		{"busy", answer(503, map[string]string{"Samara-Busy-After-Ms": "200"}, busyBody), sizeRefused + 4*sizePeer},
		{"not held", answer(404, nil, []byte{}), sizeNotHeld},
	} {
		if off := float64(c.took-c.want) / float64(c.want); off < -0.1 || off > 0.1 {
			t.Errorf("%s: taken for %d bytes, encoded in %d", c.what, c.took, c.want)
		}
	}
}
