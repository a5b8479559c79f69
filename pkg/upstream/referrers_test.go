package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestReferrers(t *testing.T) {
	d := digest.FromString("subject")
	d512 := digest.SHA512.FromString("subject")
	sig := digest.FromString("sig")
	list := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":%q,"size":3,"artifactType":"a"}]}`, sig)
	type page struct {
		status     int
		body, link string
	}
	for _, test := range []struct {
		name    string
		subject digest.Digest
		pages   map[string]page // by the end of the path and the query
		want    int
		kind    Kind
	}{
		{name: "by the API", subject: d, pages: map[string]page{"referrers/" + d.String(): {body: list}}, want: 1},
		{name: "none", subject: d, pages: map[string]page{"referrers/" + d.String(): {body: `{"manifests":[]}`}}},
		{name: "in pages", subject: d, want: 2, pages: map[string]page{
			"referrers/" + d.String():             {body: list, link: `</v2/x?next=2>; rel="next"`},
			"referrers/" + d.String() + "?next=2": {body: list},
		}},
		{name: "round and round", subject: d, kind: Corrupt, pages: map[string]page{
			"referrers/" + d.String():             {body: list, link: `</v2/x?next=2>; rel="next"`},
			"referrers/" + d.String() + "?next=2": {body: list, link: `</v2/x?next=2>; rel="next"`},
		}},
		{name: "by the tag", subject: d, pages: map[string]page{"manifests/sha256-" + d.Encoded(): {body: list}}, want: 1},
		{name: "by the tag of a long digest", subject: d512, pages: map[string]page{"manifests/sha512-" + d512.Encoded()[:64]: {body: list}}, want: 1},
		{name: "neither", subject: d},
		{name: "a page for people", subject: d, pages: map[string]page{
			"referrers/" + d.String(): {body: "<html>"}, "manifests/sha256-" + d.Encoded(): {body: list},
		}, want: 1},
		{name: "not of the API's methods", subject: d, pages: map[string]page{"referrers/" + d.String(): {status: 405}}},
		{name: "down", subject: d, kind: Unavailable, pages: map[string]page{"referrers/" + d.String(): {status: 503}}},
		{name: "denied", subject: d, kind: Denied, pages: map[string]page{"referrers/" + d.String(): {status: 403}}},
		{name: "a tag that is no list", subject: d, kind: Corrupt, pages: map[string]page{"manifests/sha256-" + d.Encoded(): {body: "x"}}},
		{name: "descriptors of nothing", subject: d, pages: map[string]page{"referrers/" + d.String(): {body: `{"manifests":[{"digest":"x","size":1},{"digest":"` + sig.String() + `","size":-1}]}`}}},
		{name: "no digest", subject: "sha256:12", kind: Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					p, ok := test.pages[strings.TrimPrefix(r.URL.RequestURI(), "/v2/a/b/")]
					switch {
					case !ok:
						http.NotFound(w, r)
						return
					case p.status != 0:
						w.WriteHeader(p.status)
						return
					case p.link != "":
						w.Header().Set("Link", p.link)
					}
					_, _ = w.Write([]byte(p.body))
				}))
				got, err := b.client.Referrers(t.Context(), "up", "a/b", test.subject)
				wantKind(t, err, test.kind)
				if len(got) != test.want {
					t.Errorf("%+v", got)
				}
				for _, d := range got {
					if d.Digest != sig || d.ArtifactType != "a" {
						t.Errorf("%+v", d)
					}
				}
			})
		})
	}
}
