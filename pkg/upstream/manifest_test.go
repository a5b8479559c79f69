package upstream

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	ociManifest = ocispec.MediaTypeImageManifest
	ociIndex    = ocispec.MediaTypeImageIndex
)

func TestManifest(t *testing.T) {
	const image, index, bare = `{"schemaVersion":2,"layers":[]}`, `{"schemaVersion":2,"manifests":[]}`, `{"schemaVersion":2}`
	typed := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q}`, dockerManifest)
	other := digest.FromString("other").String()
	tests := []struct {
		name, content, contentType string
		fault                      fault
		byDigest                   bool
		mediaType                  string
		kind                       Kind
		says                       string
	}{
		{name: "by tag", content: image, contentType: ociManifest, mediaType: ociManifest},
		{name: "by digest", content: image, contentType: ociManifest, byDigest: true, mediaType: ociManifest},
		{name: "index", content: index, contentType: ociIndex, mediaType: ociIndex},
		{name: "docker list", content: index, contentType: dockerList, mediaType: dockerList},
		{name: "parameters", content: image, contentType: ociManifest + "; charset=utf-8", mediaType: ociManifest},
		{name: "type in the content", content: typed, contentType: "text/plain", mediaType: dockerManifest},
		{name: "no type, layers", content: image, fault: fault{ContentType: "-"}, mediaType: ociManifest},
		{name: "no type, manifests", content: index, contentType: "application/json", mediaType: ociIndex},
		{name: "no type at all", content: bare, contentType: "application/octet-stream", kind: Corrupt, says: "media type"},
		{name: "no digest header", content: image, contentType: ociManifest, fault: fault{NoDigest: true}, mediaType: ociManifest},
		{name: "nonsense in the digest header", content: image, contentType: ociManifest, fault: fault{Digest: "sha256:1"}, mediaType: ociManifest},
		{name: "another digest in the header", content: image, contentType: ociManifest, fault: fault{Digest: other}, kind: Corrupt, says: "it should be " + other},
		{name: "another digest in the header, by digest", content: image, contentType: ociManifest, fault: fault{Digest: other}, byDigest: true, mediaType: ociManifest},
		{name: "wrong bytes", content: image, contentType: ociManifest, fault: fault{Corrupt: true}, byDigest: true, kind: Corrupt, says: "it should be"},
		{name: "wrong bytes, by tag", content: image, contentType: ociManifest, fault: fault{Corrupt: true}, kind: Corrupt},
		{name: "too long", content: image, contentType: ociManifest, fault: fault{Extra: 8 << 20}, kind: Corrupt, says: "longer than 8 MiB"},
		{name: "too long without a length", content: image, contentType: ociManifest, fault: fault{Extra: 8 << 20, NoLength: true}, kind: Corrupt, says: "longer than 8 MiB"},
		{name: "web page", content: "<html>please log in</html>", contentType: "text/html", kind: Corrupt, says: `no manifest but "text/html"`},
		{name: "schema 1", content: `{"schemaVersion":1}`, contentType: "application/vnd.docker.distribution.manifest.v1+prettyjws", kind: Invalid, says: "schema 1"},
		{name: "schema 1 in disguise", content: `{"schemaVersion":1}`, contentType: "application/json", kind: Invalid, says: "schema 1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				d := b.up.AddManifest("a/b", "1", test.contentType, []byte(test.content))
				b.up.SetFault("manifests", test.fault)
				ref := "1"
				if test.byDigest {
					ref = d.String()
				}
				m, err := b.client.Manifest(t.Context(), "up", "a/b", ref, nil)
				wantKind(t, err, test.kind, test.says)
				if err == nil && (m.Digest != d || m.MediaType != test.mediaType || string(m.Content) != test.content) {
					t.Errorf("%+v", m)
				}
			})
		})
	}
}

func TestManifestSHA512(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		content := []byte(`{"schemaVersion":2,"layers":[]}`)
		d := digest.SHA512.FromBytes(content)
		b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", d.String())
			w.Header().Set("Content-Type", ociManifest)
			_, _ = w.Write(content)
		}))
		for _, ref := range []string{"1", d.String()} {
			m, err := b.client.Manifest(t.Context(), "up", "a/b", ref, nil)
			if err != nil || m.Digest != d || !bytes.Equal(m.Content, content) {
				t.Errorf("%s: %+v, %v", ref, m, err)
			}
		}
	})
}

func TestHead(t *testing.T) {
	other := digest.FromString("other").String()
	tests := []struct {
		name     string
		fault    fault
		byDigest bool
		kind     Kind
		requests int
	}{
		{name: "by tag", requests: 1},
		{name: "by digest", byDigest: true, requests: 1},
		{name: "no digest", fault: fault{NoDigest: true}, requests: 2},
		{name: "no length", fault: fault{NoLength: true, Method: "HEAD"}, requests: 2},
		{name: "no type", fault: fault{ContentType: "-"}, requests: 2},
		{name: "405", fault: fault{Status: 405, Method: "HEAD"}, requests: 2},
		{name: "404", fault: fault{Status: 404}, kind: NotFound, requests: 1},
		{name: "500", fault: fault{Status: 500}, kind: Unavailable, requests: 3},
		{name: "another digest", fault: fault{Digest: other}, byDigest: true, kind: Corrupt, requests: 1},
		{name: "schema 1", fault: fault{ContentType: schema1 + "json"}, kind: Invalid, requests: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				img := b.up.AddImage("a/b", "1", 100)
				b.up.SetFault("manifests", test.fault)
				ref := "1"
				if test.byDigest {
					ref = img.Digest.String()
				}
				d, err := b.client.Head(t.Context(), "up", "a/b", ref)
				wantKind(t, err, test.kind)
				if want := (Descriptor{Digest: img.Digest, MediaType: ociManifest, Size: int64(len(img.Manifest))}); err == nil && *d != want {
					t.Errorf("%+v, want %+v", *d, want)
				}
				if n := len(b.up.Requests()); n != test.requests {
					t.Errorf("%d requests, want %d", n, test.requests)
				}
			})
		})
	}
}

func TestReferences(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		for _, ref := range []string{"", ".x", "a/b", "..", "a?b", "sha256:xyz", "md5:d41d8cd98f00b204e9800998ecf8427e", "a b"} {
			_, err := b.client.Manifest(t.Context(), "up", "a/b", ref, nil)
			wantKind(t, err, Invalid)
			_, err = b.client.Head(t.Context(), "up", "a/b", ref)
			wantKind(t, err, Invalid)
		}
		if n := len(b.up.Requests()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestTags(t *testing.T) {
	tests := []struct {
		name     string
		n        int
		last     string
		page     int // the upstream's own limit, 0 = none
		want     string
		requests int
	}{
		{name: "all", want: "[a b c d e]", requests: 1},
		{name: "all by pages", page: 2, want: "[a b c d e]", requests: 3},
		{name: "some", n: 3, want: "[a b c]", requests: 1},
		{name: "some by pages", n: 3, page: 2, want: "[a b c]", requests: 2},
		{name: "after", last: "b", want: "[c d e]", requests: 1},
		{name: "after the last", last: "x", want: "[]", requests: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				for _, tag := range []string{"c", "a", "e", "b", "d"} {
					b.up.AddManifest("a/b", tag, ociManifest, []byte("{}"))
				}
				b.up.SetFault("tags", fault{LinkHost: "http://elsewhere.test:1234", PageSize: test.page})
				b.serve("elsewhere.test:1234", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a Link to another host was followed") }))
				got, err := b.client.Tags(t.Context(), "up", "a/b", test.n, test.last)
				if err != nil || fmt.Sprint(got) != test.want {
					t.Errorf("%v, %v", got, err)
				}
				if n := len(b.up.Requests()); n != test.requests {
					t.Errorf("%d requests, want %d", n, test.requests)
				}
			})
		})
	}
}

func TestTagAnswers(t *testing.T) {
	tests := []struct {
		name, body, link string
		want             string
		kind             Kind
	}{
		{name: "null", body: `{"name":"a/b","tags":null}`, want: "[]"},
		{name: "what cannot be a tag", body: `{"tags":["ok","../x","","a b"]}`, want: "[ok]"},
		{name: "no JSON", body: `<html>`, kind: Corrupt},
		{name: "goes round", body: `{"tags":["a"]}`, link: `<?last=a>; rel="next"`, kind: Corrupt},
		{name: "too long", body: `{"tags":["` + string(bytes.Repeat([]byte{'a'}, maxTagPage)) + `"]}`, kind: Corrupt},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if test.link != "" {
						w.Header().Set("Link", test.link)
					}
					_, _ = w.Write([]byte(test.body))
				}))
				got, err := b.client.Tags(t.Context(), "up", "a/b", 0, "")
				wantKind(t, err, test.kind)
				if err == nil && fmt.Sprint(got) != test.want {
					t.Errorf("%v", got)
				}
			})
		})
	}
}
