package lab

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// The HTTP puller must notice what containerd would notice, or scenarios pass
// that should not.
func TestHTTPPuller(t *testing.T) {
	for _, c := range []struct {
		name         string
		target       string // of the mirror's fault
		fault        upstreamtest.Fault
		fall         bool  // a healthy upstream is behind the mirror
		wantErr      error // nil: the pull succeeds
		wantStatus   int   // *StatusError with this status
		wantResumes  bool
		fromUpstream bool // the faulty layer
	}{
		{name: "healthy", target: "none"},
		{name: "wrong bytes in a layer", target: "blobs", fault: upstreamtest.Fault{Corrupt: true}, wantErr: ErrWrongBytes},
		{name: "wrong bytes are final even with an upstream", target: "blobs", fault: upstreamtest.Fault{Corrupt: true}, fall: true, wantErr: ErrWrongBytes},
		{name: "wrong manifest", target: "manifests", fault: upstreamtest.Fault{Method: http.MethodGet, Corrupt: true}, wantErr: ErrWrongBytes},
		{name: "cut once", target: "blobs", fault: upstreamtest.Fault{Cut: 0.5, Times: 1}, wantResumes: true},
		{name: "resume answered with the whole", target: "blobs", fault: upstreamtest.Fault{Cut: 0.5, IgnoreRange: true, Times: 1}, wantResumes: true},
		{name: "no layer here", target: "blobs", fault: upstreamtest.Fault{Status: 404}, wantStatus: 404},
		{name: "no layer here but there", target: "blobs", fault: upstreamtest.Fault{Status: 404}, fall: true, fromUpstream: true},
		{name: "no manifest here but there", target: "manifests", fault: upstreamtest.Fault{Status: 503}, fall: true},
		{name: "resume at a wrong offset", target: "blobs", fault: upstreamtest.Fault{Cut: 0.5, ContentRange: "bytes 0-1/2"}, wantErr: errAny},
	} {
		t.Run(c.name, func(t *testing.T) {
			mirror, up := upstreamtest.New(), upstreamtest.New()
			defer mirror.Close()
			defer up.Close()
			sizes := []int{300 << 10, 10 << 10}
			mirror.AddImage("lab/app", "v1", sizes...)
			img := up.AddImage("lab/app", "v1", sizes...)
			mirror.SetFault(c.target, c.fault)
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			p := &HTTPPuller{Client: client, Mirror: mirror.URL(), NS: "registry.lab.test"}
			if c.fall {
				p.Upstream = up.URL()
			}
			rep, err := p.Pull(testContext(t, 20*time.Second), "lab/app", "v1")
			var status *StatusError
			switch {
			case c.wantStatus != 0:
				if !errors.As(err, &status) || status.Status != c.wantStatus {
					t.Fatalf("error %v, want status %d", err, c.wantStatus)
				}
			case errors.Is(c.wantErr, errAny):
				if err == nil {
					t.Fatal("no error")
				}
			case !errors.Is(err, c.wantErr):
				t.Fatalf("error %v, want %v", err, c.wantErr)
			}
			if err != nil {
				return
			}
			if rep.Digest != img.Digest.String() || rep.Bytes() != img.Size || p.Received() != img.Size {
				t.Errorf("digest %s, %d bytes, %d received; want %s, %d", rep.Digest, rep.Bytes(), p.Received(), img.Digest, img.Size)
			}
			resumes := 0
			for _, b := range rep.Blobs {
				resumes += b.Resumes
			}
			if (resumes > 0) != c.wantResumes {
				t.Errorf("%d resumes", resumes)
			}
			if (rep.FromUpstream() > 0) != c.fromUpstream {
				t.Errorf("%d bytes from the upstream", rep.FromUpstream())
			}
		})
	}
}

var errAny = errors.New("any error")
