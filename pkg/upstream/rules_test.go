package upstream

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		allow, deny []string
		repo        string
		refused     bool
	}{
		{nil, nil, "a/b", false},
		{[]string{"*"}, nil, "a", false},
		{[]string{"*"}, nil, "a/b", true},
		{[]string{"**"}, nil, "a/b/c", false},
		{[]string{"acme/*"}, nil, "acme/app", false},
		{[]string{"acme/*"}, nil, "acme/team/app", true},
		{[]string{"acme/**"}, nil, "acme/team/app", false},
		{[]string{"acme/**"}, nil, "acmeX/app", true},
		{[]string{"a.b/*"}, nil, "axb/app", true},
		{[]string{"x", "acme/*"}, nil, "acme/app", false},
		{nil, []string{"acme/secret-*"}, "acme/secret-app", true},
		{nil, []string{"acme/secret-*"}, "acme/app", false},
		{[]string{"acme/**"}, []string{"**/private"}, "acme/private", true},
	} {
		r, err := newRules(Rules{Allow: test.allow, Deny: test.deny})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.repository(test.repo) != nil; got != test.refused {
			t.Errorf("allow %q deny %q, %s: refused %v", test.allow, test.deny, test.repo, got)
		}
	}
}

// What the rules forbid is not asked for, in any way.
func TestRefused(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		img := b.up.AddImage("a/b", "v1", 10)
		if err := b.client.Update([]Registry{{Name: "up", URL: "http://up.test", Rules: Rules{Deny: []string{"a/*"}}}}); err != nil {
			t.Fatal(err)
		}
		for what, err := range everything(t, b, img.Digest) {
			if KindOf(err) != Refused || !strings.Contains(err.Error(), "repository a/b is denied here (deny=a/*)") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := len(b.up.Requests()); n != 0 {
			t.Errorf("%d requests", n)
		}
		wantKind(t, b.client.Permit("up", "a/b", -1), Refused)
		if err := b.client.Permit("up", "c/d", 1<<40); err != nil {
			t.Error(err)
		}
		if err := b.client.Permit("local.test", "a/b", -1); err != nil {
			t.Errorf("no upstream's: %v", err)
		}
	})
}

// Offline, nothing is dialled.
func TestOffline(t *testing.T) {
	virtually(t, func(o *Options) { o.Offline = true }, func(t *testing.T, b *bench) {
		img := b.up.AddImage("a/b", "v1", 10)
		for what, err := range everything(t, b, img.Digest) {
			if KindOf(err) != Offline || !strings.Contains(err.Error(), "offline: only what is held here") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if len(b.dials) != 0 || len(b.up.Requests()) != 0 {
			t.Errorf("dialled %v", b.dials)
		}
		if _, err := b.client.transport.DialContext(t.Context(), "tcp", "up.test:80"); err == nil {
			t.Error("the transport dials all the same")
		}
	})
}

// everything is each question that can be put to the upstream.
func everything(t *testing.T, b *bench, d digest.Digest) map[string]error {
	c, ctx := b.client, t.Context()
	_, manifest := c.Manifest(ctx, "up", "a/b", "v1", nil)
	_, head := c.Head(ctx, "up", "a/b", "v1")
	_, tags := c.Tags(ctx, "up", "a/b", 0, "")
	_, size := c.BlobSize(ctx, "up", "a/b", d)
	_, blob := c.Blob(ctx, "up", "a/b", d, 0, -1)
	return map[string]error{"manifest": manifest, "head": head, "tags": tags, "size": size, "blob": blob}
}

// A blob that is too large is refused by the header, or where nobody says how
// large it is, when it has become so.
func TestMaxBlob(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		fits, _ := b.up.AddRandomBlob(1000)
		large, _ := b.up.AddRandomBlob(1001)
		if err := b.client.Update([]Registry{{Name: "up", URL: "http://up.test", Rules: Rules{MaxBlob: 1000}}}); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(t, b, fits, 0, -1); err != nil || len(got) != 1000 {
			t.Errorf("one that fits: %d bytes, %v", len(got), err)
		}
		for _, test := range []struct {
			what  string
			off   int64
			n     int64
			fault fault
		}{
			{"whole", 0, -1, fault{}},
			{"a range", 10, 20, fault{}},
			{"a range, ignored", 10, 20, fault{IgnoreRange: true}},
			{"no length", 0, -1, fault{NoLength: true}},
		} {
			b.up.SetFault("blobs", test.fault)
			got, err := readAll(t, b, large, test.off, test.n)
			if KindOf(err) != Refused || len(got) > 1000 || !strings.Contains(err.Error(), "more than 1000 are denied here (max-blob)") {
				t.Errorf("%s: %d bytes, %v", test.what, len(got), err)
			}
			if test.fault == (fault{}) && len(got) != 0 {
				t.Errorf("%s: %d bytes were read first", test.what, len(got))
			}
		}
		b.up.ClearFaults()
		_, err := b.client.BlobSize(t.Context(), "up", "a/b", large)
		wantKind(t, err, Refused)
	})
}
