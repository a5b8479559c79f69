package skew

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"github.com/samara-p2p/samara/test/lab"
)

var binaries lab.Binaries

func TestMain(m *testing.M) { os.Exit(lab.Main(m, &binaries)) }

// old are programs of an earlier version; the test is skipped where there are none.
func old(t *testing.T) lab.Binaries {
	t.Helper()
	dir := os.Getenv("SAMARA_BIN_OLD")
	if dir == "" {
		t.Skip("SAMARA_BIN_OLD names no programs of an earlier version: make accept-skew")
	}
	return lab.Binaries{Seeder: filepath.Join(dir, "seeder"), Peerd: filepath.Join(dir, "peerd")}
}

const (
	upstreamName = "up.test"
	repository   = "lab/app"
	local        = "team/app"
)

// site is an upstream, a seeder and peerds, on loopback.
type site struct {
	t      *testing.T
	lab    *lab.Lab
	up     *upstreamtest.Server
	seeder *lab.Seeder
	peers  []*lab.Peerd
	client *http.Client
}

// newSite starts an upstream, which has the images of upstreamImages, and no daemon.
func newSite(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("runs programs")
	}
	s := &site{t: t, lab: lab.ForTest(t, lab.Options{Loopback: true}), up: upstreamtest.New()}
	t.Cleanup(s.up.Close)
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, i := range upstreamImages {
		s.up.AddBlob(config)
		s.up.AddBlob(i.layer)
		s.up.AddManifest(repository, i.tag, ocispec.MediaTypeImageManifest, i.manifest())
	}
	return s
}

// image is one whose bytes can be compressed well, and tell their place.
type image struct {
	tag   string
	layer []byte
}

var (
	config         = []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	upstreamImages = []image{newImage("v1", 300<<10), newImage("v2", 700<<10), newImage("partly", 16<<20)}
	pushed         = newImage("pushed", 5000)
)

func newImage(tag string, size int) image {
	var b bytes.Buffer
	for n := 0; b.Len() < size; n++ {
		fmt.Fprintf(&b, "%s: line %d\n", tag, n/1000)
	}
	return image{tag, b.Bytes()[:size]}
}

func (i image) digest() digest.Digest { return digest.FromBytes(i.layer) }

func (i image) manifest() []byte { return manifestOf(i.layer, nil) }

func manifestOf(layer []byte, subject []byte) []byte {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}},
	}
	m.SchemaVersion = 2
	if subject != nil {
		m.ArtifactType = "application/vnd.samara.test"
		m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(subject), Size: int64(len(subject))}
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// startSeeder starts a seeder on the directory data.
func (s *site) startSeeder(ctx context.Context, bin lab.Binaries, data string) {
	s.t.Helper()
	events := filepath.Join(s.t.TempDir(), "events.yaml")
	// Nobody listens there: events wait.
	if err := os.WriteFile(events, []byte("- name: hook\n  url: http://127.0.0.1:1/\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	h, err := s.lab.NewHost(fmt.Sprintf("seeder%d", len(s.lab.Hosts())), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.seeder, err = lab.StartSeeder(ctx, bin, h, lab.SeederConfig{
		Data: data, Upstreams: []lab.NamedURL{{Name: upstreamName, URL: s.up.URL()}},
		Args: []string{"--local", "team", "--allow", "anyone pull+push+delete **", "--events", events, "--upload-expiry", "87600h", "--trash-period", "87600h"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// startPeer starts a peerd on the directory data, and waits until it has met the
// seeder and the peers before it.
func (s *site) startPeer(ctx context.Context, bin lab.Binaries, data string) *lab.Peerd {
	s.t.Helper()
	h, err := s.lab.NewHost(fmt.Sprintf("peer%d", len(s.lab.Hosts())), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := lab.StartPeerd(ctx, bin, h, lab.PeerdConfig{Seeder: s.seeder.URL, SwarmKey: s.seeder.SwarmKey, Data: data})
	if err != nil {
		s.t.Fatal(err)
	}
	s.peers = append(s.peers, p)
	s.eventually(ctx, "the peer meets all", func() error {
		st, err := p.Status(ctx)
		if err == nil && st.Swarm.Neighbours < len(s.peers) {
			err = fmt.Errorf("it has %d neighbours", st.Swarm.Neighbours)
		}
		return err
	})
	return p
}

// stop ends all daemons in good order.
func (s *site) stop() {
	s.t.Helper()
	for _, p := range s.peers {
		if status, err := p.Stop(time.Minute); err != nil || status != 0 {
			s.t.Fatalf("peerd ends with %d, %v", status, err)
		}
	}
	s.peers = nil
	if !s.seeder.Running() {
		return
	}
	if status, err := s.seeder.Stop(time.Minute); err != nil || status != 0 {
		s.t.Fatalf("seeder ends with %d, %v", status, err)
	}
}

func (s *site) eventually(ctx context.Context, what string, f func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := lab.Eventually(ctx, f); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

// pull pulls an image of the upstream through a peer, with nowhere else to go.
func (s *site) pull(ctx context.Context, p *lab.Peerd, ref string) error {
	puller := &lab.HTTPPuller{Client: s.client, Mirror: p.Mirror, NS: upstreamName}
	_, err := puller.Pull(ctx, repository, ref)
	return err
}

// call asks the seeder's registry API, or a mirror; want is the status.
func (s *site) call(ctx context.Context, method, url string, want int, header, body string) (http.Header, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if name, v, ok := strings.Cut(header, ": "); ok {
		req.Header.Set(name, v)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil || resp.StatusCode != want {
		s.t.Fatalf("%s %s: %s, %v, want %d: %.300s", method, url, resp.Status, err, want, text)
	}
	return resp.Header, string(text)
}

// upload is the path of the upload that fill begins, as the seeder named it; the
// file is beside the directories, for a check in another process.
const uploadFile = "upload"

// fill has a seeder and a peerd write all that they write: into dir/seeder and
// dir/peerd.
func (s *site) fill(ctx context.Context, bin lab.Binaries, dir string) {
	s.t.Helper()
	s.startSeeder(ctx, bin, filepath.Join(dir, "seeder"))
	p := s.startPeer(ctx, bin, filepath.Join(dir, "peerd"))
	if err := s.pull(ctx, p, "v1"); err != nil {
		s.t.Fatal(err)
	}
	mirror := p.Mirror + "/v2/" + repository
	s.call(ctx, http.MethodHead, mirror+"/manifests/partly?ns="+upstreamName, http.StatusOK, "Accept: "+ocispec.MediaTypeImageManifest, "")
	s.call(ctx, http.MethodGet, mirror+"/blobs/"+upstreamImages[2].digest().String()+"?ns="+upstreamName, http.StatusPartialContent, "Range: bytes=300000-300099", "")

	base := s.seeder.URL + "/v2/" + local
	for _, b := range [][]byte{config, pushed.layer} {
		s.call(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+digest.FromBytes(b).String(), http.StatusCreated, "Content-Type: application/octet-stream", string(b))
	}
	manifest := string(pushed.manifest())
	isManifest := "Content-Type: " + ocispec.MediaTypeImageManifest
	for _, tag := range []string{"v1", "gone"} {
		s.call(ctx, http.MethodPut, base+"/manifests/"+tag, http.StatusCreated, isManifest, manifest)
	}
	referrer := manifestOf(pushed.layer, pushed.manifest())
	s.call(ctx, http.MethodPut, base+"/manifests/"+digest.FromBytes(referrer).String(), http.StatusCreated, isManifest, string(referrer))
	s.call(ctx, http.MethodDelete, base+"/manifests/gone", http.StatusAccepted, "", "")
	h, _ := s.call(ctx, http.MethodPost, base+"/blobs/uploads/", http.StatusAccepted, "", "")
	at := h.Get("Location")
	if strings.HasPrefix(at, "/") {
		at = s.seeder.URL + at
	}
	h, _ = s.call(ctx, http.MethodPatch, at, http.StatusAccepted, "Content-Type: application/octet-stream", "0123456789")
	at = h.Get("Location")
	if i := strings.Index(at, "/v2/"); i >= 0 {
		at = at[i:]
	}
	if err := os.WriteFile(filepath.Join(dir, uploadFile), []byte(at), 0o600); err != nil {
		s.t.Fatal(err)
	}
	for _, name := range []string{"seeder/tags", "seeder/registry/trash", "seeder/visibility.json", "peerd/seeder.json", "peerd/dht/peers.json", "peerd/visibility.json", "peerd/store/small"} {
		s.eventually(ctx, name, func() error {
			_, err := os.Stat(filepath.Join(dir, name))
			return err
		})
	}
	s.stop()
}

// check starts daemons on what fill has left, and asks for all of it. No byte of a
// layer may come from the upstream once more.
func (s *site) check(ctx context.Context, bin lab.Binaries, dir string) {
	s.t.Helper()
	s.up.ResetCounts()
	s.startSeeder(ctx, bin, filepath.Join(dir, "seeder"))
	base := s.seeder.URL + "/v2/" + local
	if _, body := s.call(ctx, http.MethodGet, base+"/manifests/v1", http.StatusOK, "", ""); body != string(pushed.manifest()) {
		s.t.Errorf("the manifest that was pushed is now %q", body)
	}
	if _, body := s.call(ctx, http.MethodGet, base+"/blobs/"+pushed.digest().String(), http.StatusOK, "", ""); body != string(pushed.layer) {
		s.t.Error("the layer that was pushed is another now")
	}
	if _, body := s.call(ctx, http.MethodGet, base+"/tags/list", http.StatusOK, "", ""); !strings.Contains(body, `["v1"]`) {
		s.t.Errorf("tags are now %s", body)
	}
	if _, body := s.call(ctx, http.MethodGet, base+"/referrers/"+digest.FromBytes(pushed.manifest()).String(), http.StatusOK, "", ""); strings.Count(body, "application/vnd.samara.test") != 1 {
		s.t.Errorf("referrers are now %s", body)
	}
	at, err := os.ReadFile(filepath.Join(dir, uploadFile))
	if err != nil {
		s.t.Fatal(err)
	}
	if h, _ := s.call(ctx, http.MethodGet, s.seeder.URL+string(at), http.StatusNoContent, "", ""); h.Get("Range") != "0-9" {
		s.t.Errorf("the upload under way has %q now", h.Get("Range"))
	}
	parts, err := filepath.Glob(filepath.Join(dir, "peerd/store/blobs/*/*/*/data.part"))
	if err != nil {
		s.t.Fatal(err)
	}
	p := s.startPeer(ctx, bin, filepath.Join(dir, "peerd"))
	if err := s.pull(ctx, p, "v1"); err != nil {
		s.t.Error(err)
	}
	st, err := p.Status(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if st.Bytes.FromPeers+st.Bytes.FromSeeder+st.Bytes.FromUpstream > 0 {
		s.t.Errorf("the peer did not have the image any more: %+v", st.Bytes)
	}
	if st.Store.Partial != len(parts) {
		s.t.Errorf("the peer has %d partial blobs, not %d", st.Store.Partial, len(parts))
	}
	empty := s.startPeer(ctx, bin, filepath.Join(s.t.TempDir(), "peerd"))
	if err := s.pull(ctx, empty, "v1"); err != nil {
		s.t.Error(err)
	}
	if n := s.up.BytesServed(upstreamImages[0].digest()); n > 0 {
		s.t.Errorf("%d bytes of the layer came from the upstream", n)
	}
	s.stop()
}

var errNoRefusal = errors.New("it started")

// refuses starts a program that must not, and gives what it says.
func (s *site) refuses(ctx context.Context, program string, args ...string) error {
	h, err := s.lab.NewHost(fmt.Sprintf("refused%d", len(s.lab.Hosts())), 0)
	if err != nil {
		return err
	}
	out, err := h.Run(ctx, program, args...)
	if err == nil {
		return fmt.Errorf("%w: %s", errNoRefusal, out)
	}
	return err
}
