package lazy

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/test/lab"
)

const mib = 1 << 20

// limit bounds one test.
const limit = 4 * time.Minute

var binaries lab.Binaries

func TestMain(m *testing.M) { os.Exit(lab.Main(m, &binaries)) }

func newWorld(t *testing.T, peers int, args ...string) (context.Context, *World) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs daemons")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	w, err := Start(ctx, lab.ForTest(t, lab.Options{Rate: -1, Loopback: true}), binaries, peers, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return ctx, w
}

// pull has a peerd know the image, as containerd's pull does before a snapshotter reads.
func (w *World) pull(ctx context.Context, t *testing.T, c *Client, tag string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/v2/"+Repository+"/manifests/"+tag+"?ns="+Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("manifest %s: %s, %v", tag, resp.Status, err)
	}
	return body
}

var lazyAnnotation = map[string]string{"containerd.io/snapshot/stargz/toc.digest": "sha256:0"}

// image makes an image of one layer that says that it can be read in parts.
func (w *World) image(t *testing.T, tag string, layers ...*Blob) {
	t.Helper()
	for _, l := range layers {
		l.Annotations = lazyAnnotation
	}
	if _, err := w.Up.Image(tag, w.Up.Content(ocispec.MediaTypeImageConfig, []byte("{}")), layers...); err != nil {
		t.Fatal(err)
	}
}

// must fails the test.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// pieces is how many bytes the pieces of these ranges have together.
func pieces(b *Blob, ranges ...Range) int64 {
	g, err := piece.GeometryOf(b.Size)
	if err != nil {
		panic(err) // it is no size that a blob can have
	}
	touched := piece.NewBitfield(g.Count())
	n := int64(0)
	for _, r := range ranges {
		for i := g.Index(r.Offset); i <= g.Index(r.Offset+r.Length-1); i++ {
			if touched.Set(i) {
				n += int64(g.Len(i))
			}
		}
	}
	return n
}

// contract 6, 28: what snapshotters ask for comes, and nothing else leaves the
// upstream; a second host has it from the swarm.
func TestSnapshotters(t *testing.T) {
	ctx, w := newWorld(t, 2, "--lazy", "needed")
	for i, s := range Snapshotters {
		t.Run(s.Name, func(t *testing.T) {
			b := must(w.Up.Noise(64*mib, uint64(i+1)))(t)
			w.image(t, s.Name, b)
			ranges := Draw(b, 6, s.Largest, uint64(i))
			want := pieces(b, ranges...)
			if s.Name != "nydusd" {
				want = pieces(b, append(ranges, Range{0, 2})...)
			}
			for _, p := range w.Peers {
				c := w.Client(p)
				w.pull(ctx, t, c, s.Name)
				if err := s.Mount(ctx, c, b); err != nil {
					t.Fatal(err)
				}
				for k := 0; k < len(ranges); k += s.Ranges {
					if err := c.Read(ctx, b, ranges[k:k+s.Ranges]...); err != nil {
						t.Fatal(err)
					}
				}
				if got := b.Sent(); got != want {
					t.Errorf("%d bytes left the upstream, want the %d of the pieces that were read", got, want)
				}
			}
		})
	}
}

// contract 6, 28: stargz-snapshotter's own code reads an eStargz layer, its table
// of contents first, and any range of it.
func TestStargz(t *testing.T) {
	program, err := filepath.Abs("../../bin/stargz")
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		t.Skip("bin/stargz is not there: make stargz")
	}
	ctx, w := newWorld(t, 1, "--lazy", "needed")
	layer, toc, sums := estargz(ctx, t, program)
	b := w.Up.Content(ocispec.MediaTypeImageLayerGzip, layer)
	b.Annotations = map[string]string{"containerd.io/snapshot/stargz/toc.digest": toc}
	if _, err := w.Up.Image("v1", w.Up.Content(ocispec.MediaTypeImageConfig, []byte("{}")), b); err != nil {
		t.Fatal(err)
	}
	w.pull(ctx, t, w.Client(w.Peers[0]), "v1")
	mirror := strings.TrimPrefix(w.Peers[0].Mirror, "http://")
	args := []string{mirror, Name + "/" + Repository + ":v1", b.Digest.String(), fmt.Sprint(b.Size)}

	ranges := Draw(b, 12, 512<<10, 1)
	var in strings.Builder
	for _, r := range ranges {
		fmt.Fprintln(&in, r.Offset, r.Length)
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"read"}, args...)...)
	cmd.Stdin, cmd.Stderr = strings.NewReader(in.String()), os.Stderr
	out := json.NewDecoder(bytes.NewReader(must(cmd.Output())(t)))
	for _, r := range ranges {
		var got struct {
			Offset, Length int64
			Seconds        float64
			SHA256, Error  string
		}
		if err := out.Decode(&got); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%x", sha256.Sum256(layer[r.Offset:r.Offset+r.Length]))
		if got.Offset != r.Offset || got.SHA256 != want || got.Error != "" {
			t.Errorf("range %s: %+v", r, got)
		}
		t.Logf("range %s: %.3f s", r, got.Seconds)
	}
	if n := b.Sent(); n >= b.Size*9/10 {
		t.Errorf("%d bytes left the upstream for %d of %d", n, pieces(b, ranges...), b.Size)
	}

	cmd = exec.CommandContext(ctx, program, append(append([]string{"files"}, args...), toc)...)
	cmd.Stderr = os.Stderr
	if got := string(must(cmd.Output())(t)); got != sums {
		t.Errorf("files:\n%swant:\n%s", got, sums)
	}
	if n := b.Sent(); n > b.Size {
		t.Errorf("%d bytes left the upstream for a layer of %d", n, b.Size)
	}
}

// estargz makes a layer of a few files of noise.
func estargz(ctx context.Context, t *testing.T, program string) (layer []byte, toc, sums string) {
	t.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	rng := rand.NewChaCha8([32]byte{1})
	for i, size := range []int{100, 9 * mib, 300 << 10, 0, 12 * mib} {
		content := make([]byte, size)
		_, _ = rng.Read(content) // never fails
		name := fmt.Sprintf("file%d", i)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		sums += fmt.Sprintf("%s %x\n", name, sha256.Sum256(content))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var digest bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "make")
	cmd.Stdin, cmd.Stderr = &text, &digest
	layer = must(cmd.Output())(t)
	return layer, strings.TrimSpace(digest.String()), sums
}

// contract 7: chunks without an end cost what the blob has, however often clients
// leave in the middle of a body.
func TestChunked(t *testing.T) {
	ctx, w := newWorld(t, 1)
	for i, chunk := range []int64{1 * mib, 8 * mib} {
		t.Run(fmt.Sprint(chunk/mib, "MiB"), func(t *testing.T) {
			b := must(w.Up.Noise(48*mib, uint64(100+i)))(t)
			w.image(t, t.Name()[len(t.Name())-4:], b)
			before := must(w.Bytes(ctx))(t)
			if err := w.Client(w.Peers[0]).Chunked(ctx, b, chunk, 3); err != nil {
				t.Fatal(err)
			}
			after := must(w.Bytes(ctx))(t)
			if n := b.Sent(); n != b.Size {
				t.Errorf("%d bytes left the upstream, want %d", n, b.Size)
			}
			if n := after.Seeder + after.Peers - before.Seeder - before.Peers; n*100 > b.Size*105 {
				t.Errorf("%d bytes came from the seeder, for a blob of %d", n, b.Size)
			}
		})
	}
}

// A layer of 10 GiB, of which nobody has the disk: its ends and what lies between
// come, with little memory and little disk.
func TestHugeLayer(t *testing.T) {
	ctx, w := newWorld(t, 1, "--lazy", "needed")
	b := w.Up.Endless(10<<30, 1)
	w.image(t, "huge", b)
	c := w.Client(w.Peers[0])
	w.pull(ctx, t, c, "huge")
	ranges := []Range{{b.Size - 64<<10, 64 << 10}, {b.Size - 5*mib, 4 * mib}, {0, 2}, {5<<30 + 12345, mib}}
	for _, r := range ranges {
		took, err := c.Time(ctx, b, r)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("range %s: %v", r, took.Total)
	}
	if n, want := b.Sent(), pieces(b, ranges...); n != want {
		t.Errorf("%d bytes left the upstream, want %d", n, want)
	}
	st := must(w.Peers[0].Status(ctx))(t)
	if st.Store.Used > 64*mib {
		t.Errorf("%d bytes on the disk", st.Store.Used)
	}
}
