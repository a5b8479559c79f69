package mirror

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

// contract 24: there is no way around, by whatever spelling, method, header or
// endpoint, to an image that the host has cached.
func TestContract24WaysAround(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	h := b.peer(nil)
	h.image("v1", b.open)
	ops := h.login(secretTag, "ops", secretPassword)
	for _, path := range paths(b.closed) {
		h.get(path, 200, ops)
	}
	img := b.closed
	layer, config, manifest := img.Layers[0].String(), img.Config.String(), img.Digest.String()
	ways := []string{
		// A manifest as a blob, a blob as a manifest.
		"/v2/lab/app/blobs/" + manifest, "/v2/lab/secret/blobs/" + manifest, "/v2/lab/app/manifests/" + config, "/v2/lab/secret/manifests/" + config,
		// Other names of the repository and its upstream.
		"/v2/lab/SECRET/manifests/v1", "/v2/Lab/secret/blobs/" + layer, "/v2/library/lab/secret/blobs/" + layer,
		"/v2/DOCKER.IO/lab/secret/manifests/v1", "/v2/index.docker.io/lab/secret/manifests/v1", "/v2/registry-1.docker.io:443/lab/secret/blobs/" + layer,
		"/v2/lab/secret/manifests/v1?ns=registry-1.docker.io", "/v2/lab/secret/manifests/v1?ns=INDEX.docker.io:443", "/v2/lab/secret/manifests/v1?ns=UP.TEST",
		"/v2/lab/secret/manifests/v1?ns=", "/v2/lab/app/blobs/" + layer + "?ns=" + upName + "&ns=docker.io", "/v2/" + upName + "/lab/secret/blobs/" + layer + "?ns=docker.io",
		// Paths that end elsewhere than they seem to.
		"/v2/lab/app/../secret/manifests/v1", "/v2/lab/app/%2e%2e/secret/manifests/v1", "/v2/lab%2fsecret/manifests/v1", "/v2//lab/secret/manifests/v1", "/v2/lab/secret//manifests/v1",
		"/v2/lab/app/manifests/../../secret/manifests/v1", "/v2/lab/secret/manifests/v1/", "/V2/lab/secret/manifests/v1", "/v2/lab/secret/blobs/" + strings.ToUpper(layer),
		"/v2/lab/app/manifests/%2e%2e%2f%2e%2e%2fsecret%2fmanifests%2fv1", "/v2/lab/app/blobs/uploads/?mount=" + layer + "&from=lab/secret",
		// Lists.
		"/v2/_catalog", "/v2/_catalog?n=100", "/v2/lab/secret/tags/list?n=1", "/v2/lab/secret/tags/list?last=a",
		"/v2/lab/secret/referrers/" + manifest + "?artifactType=x", "/v2/lab/app/referrers/" + manifest, "/v2/lab/app/referrers/" + config,
		// What belongs to others.
		"/samara/v1/blobs/" + layer, "/samara/v1/contents", "/metrics", "/v1/status", "/token",
	}
	headers := [][]string{
		nil, {"Range: bytes=0-"}, {"Range: bytes=0-9,20-29"}, {"Range: bytes=-5"}, {"If-None-Match: \"" + layer + "\""}, {"X-Dragonfly-Registry: " + b.up.URL()},
		{"Authorization: Bearer x"}, {"Authorization: Bearer x", ops}, {"authorization: basic Og=="}, {"X-Forwarded-For: 127.0.0.1"}, {"Samara-Visibility: ask"},
		{"Samara-Visibility: public"}, {"Samara-Handover-Part: rest"}, {"Samara-Peer: " + b.seeder.Status().PeerID}, {"User-Agent: docker/20.10.24"}, {"OCI-Namespace: docker.io"},
	}
	secrets := map[string]string{"manifest": string(img.Manifest), "config": string(b.up.Blob(img.Config)), "layer": string(b.up.Blob(img.Layers[0])[:64])}
	for _, path := range append(append(ways, paths(img)...), foreign(img)...) {
		for i, header := range headers {
			if i > 0 && strings.Contains(path, "..") {
				continue
			}
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
				r, err := daemontest.Do(t.Context(), method, h.URL+path, header...)
				if err != nil {
					continue // no path of HTTP at all
				}
				if r.Status < 400 {
					t.Errorf("%s %s %v: %d %.100q", method, path, header, r.Status, r.Body)
				}
				for what, secret := range secrets {
					if strings.Contains(string(r.Body), secret) {
						t.Errorf("%s %s %v: the %s", method, path, header, what)
					}
				}
				for _, d := range []digest.Digest{img.Digest, img.Config} {
					if u, _ := url.PathUnescape(path); method != http.MethodPost && !strings.Contains(u, d.String()) && strings.Contains(r.Header.Get("Docker-Content-Digest")+r.Header.Get("ETag"), d.String()) {
						t.Errorf("%s %s %v: told the digest", method, path, header)
					}
				}
			}
		}
	}
	h.image("v1", b.open) // and all of that has done no harm
	h.get(secretTag, 200, ops)
}
