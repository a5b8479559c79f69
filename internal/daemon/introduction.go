package daemon

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/samara-p2p/samara/internal/authorities"
)

// IntroductionPath is where a seeder's registry API serves its Introduction.
const IntroductionPath = "/samara/v1/seeder"

// maxIntroduction bounds what is read of one, in bytes.
const maxIntroduction = 1 << 20

// Introduction is what a peer must know of a seeder: who it is, where its
// libp2p host listens and which upstreams it stands for. It holds no secret.
type Introduction struct {
	PeerID  string   `json:"peerId"`
	Addrs   []string `json:"addrs"` // multiaddrs, without /p2p
	Version string   `json:"version"`
	// SwarmKey is the fingerprint of the swarm key, empty for an open swarm:
	// peers compare it, to tell a wrong key from a dead network.
	SwarmKey  string              `json:"swarmKey,omitempty"`
	Upstreams []IntroduceUpstream `json:"upstreams"`
	Default   string              `json:"defaultUpstream,omitempty"`
}

// IntroduceUpstream names one of the seeder's upstreams.
type IntroduceUpstream struct {
	Name string `json:"name"`
	URL  string `json:"url"` // "": its repositories are the seeder's own
	// The seeder's rules for it; its peers keep to them where they ask the
	// upstream themselves.
	Allow   []string `json:"allow,omitempty"`
	Deny    []string `json:"deny,omitempty"`
	MaxBlob int64    `json:"maxBlob,omitempty"` // bytes, 0 = any
	// Private says whom the peers' mirrors give what is not public there; "" leaves that to them.
	Private string `json:"private,omitempty"`
}

// AddrInfo is the seeder's identity and addresses in libp2p's terms.
func (in *Introduction) AddrInfo() (peer.AddrInfo, error) {
	id, err := peer.Decode(in.PeerID)
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("peer ID %q: %w", in.PeerID, err)
	}
	ai := peer.AddrInfo{ID: id}
	for _, s := range in.Addrs {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return peer.AddrInfo{}, fmt.Errorf("address %q: %w", s, err)
		}
		ai.Addrs = append(ai.Addrs, a)
	}
	return ai, nil
}

// ErrNoSeeder says that a URL answers, but is no Samara seeder.
var ErrNoSeeder = errors.New("this is no Samara seeder")

// introductionTimeout bounds Introduce.
const introductionTimeout = 5 * time.Second

// IntroductionClient is for Introduce. It keeps no connections: a seeder is asked
// for its introduction now and then. caFile has authorities in PEM that are
// trusted besides the system's; "" for none.
func IntroductionClient(caFile string) (*http.Client, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	if caFile != "" {
		pool, err := authorities.Besides(caFile)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return &http.Client{Transport: t}, nil
}

// Introduce fetches a seeder's introduction. Its listen addresses that name no
// host are completed with the one in the URL by the seeder itself. The error is
// an ErrNoSeeder where something else answers.
func Introduce(ctx context.Context, client *http.Client, seederURL string) (*Introduction, error) {
	ctx, cancel := context.WithTimeout(ctx, introductionTimeout)
	defer cancel()
	u := strings.TrimSuffix(seederURL, "/") + IntroductionPath
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("seeder %s: %w", seederURL, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("seeder %s does not answer in time: it hangs, or something on the way drops packets: %w", seederURL, err)
		}
		return nil, fmt.Errorf("seeder %s does not answer: %w", seederURL, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxIntroduction))
	if err != nil {
		return nil, fmt.Errorf("seeder %s: read its introduction: %w", seederURL, err)
	}
	if resp.StatusCode >= 500 { // a proxy whose seeder is still to come
		return nil, fmt.Errorf("seeder %s does not answer: %s answers %s", seederURL, u, resp.Status)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %w; is --seeder the URL of a seeder's registry API?", u, resp.Status, ErrNoSeeder)
	}
	var in Introduction
	if err := json.Unmarshal(body, &in); err != nil || in.PeerID == "" {
		return nil, fmt.Errorf("%s answers something else than an introduction: %w; is --seeder the URL of a seeder's registry API?", u, ErrNoSeeder)
	}
	if _, err := in.AddrInfo(); err != nil {
		return nil, fmt.Errorf("seeder %s: its introduction is not usable: %w", seederURL, err)
	}
	return &in, nil
}

// IntroductionHandler serves what get returns. host is the address under which
// the asking peer reached this seeder; it stands in for addresses that no peer
// could dial.
func IntroductionHandler(get func(host string) Introduction) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		u := url.URL{Host: r.Host}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(get(u.Hostname()))
	})
}
