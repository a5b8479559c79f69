package durable

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/objectstore/objectstoretest"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const localName = "registry.test"

// place is a data directory, and what is opened in it.
type place struct {
	t    *testing.T
	s3   *objectstoretest.Server
	data string
	st   *store.Store
	*Home
}

func newPlace(t *testing.T, s3 *objectstoretest.Server) *place {
	t.Helper()
	p := &place{t: t, s3: s3, data: t.TempDir()}
	var err error
	p.st, err = store.Open(filepath.Join(p.data, "store"), store.Options{})
	p.must(err)
	t.Cleanup(func() {
		p.close()
		p.must(p.st.Close())
	})
	return p
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) open() error {
	p.t.Helper()
	p.close()
	c, err := objectstore.New(p.s3.Options("prod"))
	p.must(err)
	h, err := Open(p.t.Context(), Options{Data: p.data, Objects: c, Store: p.st, CopyPulled: true,
		IsLocal: func(up string) bool { return up == localName }, Log: zaptest.NewLogger(p.t)})
	if err == nil {
		p.Home = h
	}
	return err
}

func (p *place) close() {
	if p.Home != nil {
		p.Close()
		p.Home = nil
	}
}

// link makes a link as internal/local does.
func (p *place) link(path, content string) error {
	return p.Put(path, []byte(content), func() error { return p.write(path, content) })
}

func (p *place) write(path, content string) error {
	path = filepath.Join(p.data, registryName, filepath.FromSlash(path))
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600))
}

func (p *place) push(content []byte) error {
	path := filepath.Join(p.t.TempDir(), "content")
	p.must(os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	p.must(err)
	defer f.Close()
	return p.Push(p.t.Context(), digest.FromBytes(content), f, "")
}

func (p *place) at(prefix string) []string {
	return slices.DeleteFunc(p.s3.Keys(), func(k string) bool { return !strings.HasPrefix(k, "prod/"+prefix) })
}

const tag = "repositories/team/app/_tags/v1"

// One directory has the bucket: who comes later takes it over, and who had it
// writes no more.
func TestOneHolder(t *testing.T) {
	s3 := objectstoretest.Start(t)
	a, b := newPlace(t, s3), newPlace(t, s3)
	a.must(a.open())
	a.must(a.link(tag, `{"v":1}`))
	a.must(a.push([]byte("content")))
	b.must(b.open())
	if text, err := os.ReadFile(b.dir(filepath.FromSlash(tag))); err != nil || string(text) != `{"v":1}` {
		t.Errorf("restored: %q, %v", text, err)
	}
	if size, err := b.Size(t.Context(), digest.FromString("content")); err != nil || size != 7 {
		t.Errorf("size %d, %v", size, err)
	}
	a.look()
	var e *registry.Error
	if err := a.push([]byte("more")); !errors.As(err, &e) || e.Status != http.StatusServiceUnavailable || !strings.Contains(errors.Unwrap(e).Error(), "another process") {
		t.Errorf("the one before still writes: %v", err)
	}
	if err := a.link(tag, `{"v":2}`); err == nil {
		t.Error("the one before still links")
	}
	b.must(b.link(tag, `{"v":3}`))
	if s := a.Home.Status(); !strings.Contains(s.Error, "two seeders") || b.Home.Status().Error != "" {
		t.Errorf("%+v", s)
	}
}

// A directory and a bucket that do not belong together are told apart.
func TestClaims(t *testing.T) {
	s3 := objectstoretest.Start(t)
	a := newPlace(t, s3)
	a.must(a.open())
	a.must(a.link(tag, "{}"))
	a.close()
	remove := func(key string) {
		t.Helper()
		c, err := objectstore.New(s3.Options("prod"))
		a.must(err)
		defer c.Close()
		a.must(c.Remove(t.Context(), key))
	}
	for _, c := range []struct {
		name    string
		prepare func(p *place)
		want    string
	}{
		{"repositories of its own", func(p *place) { p.must(p.write(tag, "{}")) }, "another seeder"},
		{"a copy of another", func(p *place) {
			p.must(os.MkdirAll(filepath.Join(p.data, stateName), 0o700))
			p.must(os.WriteFile(filepath.Join(p.data, stateName, idName), []byte("other\n"), 0o600))
		}, "is not the one"},
		{"emptied", func(p *place) {
			p.must(p.open())
			p.close()
			remove(claimKey)
		}, "is gone"},
		{"something else", func(p *place) {
			c, err := objectstore.New(s3.Options("prod"))
			p.must(err)
			defer c.Close()
			p.must(c.Put(t.Context(), claimKey, []byte(`{"format":"else"}`), objectstore.PutOptions{}))
		}, "none of this program's"},
	} {
		p := newPlace(t, s3)
		c.prepare(p)
		if err := p.open(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Where a change got to one of the two only, the bucket is made to say what
// the disk says, by this process or the next.
func TestJournal(t *testing.T) {
	s3 := objectstoretest.Start(t)
	p := newPlace(t, s3)
	p.must(p.open())
	broken := errors.New("the disk is broken")
	if err := p.Put(tag, []byte("{}"), func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if keys := p.at("repositories/"); len(keys) > 0 {
		t.Errorf("the bucket has what the disk has not: %v", keys)
	}
	p.must(p.link(tag, "{}"))
	if err := p.Remove(tag, func() error { return broken }); !errors.Is(err, broken) || len(p.at("repositories/")) != 1 {
		t.Errorf("the bucket lost what the disk has: %v", err)
	}
	// The answer of the bucket is lost.
	lost := true
	s3.SetFault(func(r *http.Request) objectstoretest.Fault {
		return objectstoretest.Fault{Drop: lost && r.Method != http.MethodGet}
	})
	if err := p.Remove(tag, func() error { return os.Remove(p.dir(filepath.FromSlash(tag))) }); err == nil {
		t.Error("removed without the bucket")
	}
	if n := p.Home.Status().Pending; n != 1 {
		t.Errorf("%d in the journal", n)
	}
	p.close()
	p.must(os.WriteFile(filepath.Join(p.data, stateName, linksName, ".torn"), []byte("x"), 0o600))
	s3.SetFault(nil)
	p.must(os.Remove(filepath.Join(p.data, registryName, filepath.FromSlash(tag)))) // as if the disk had gone on
	p.must(p.open())
	daemontest.Until(t, "the journal is empty", func() error {
		if p.Home.Status().Pending > 0 || len(p.at("repositories/")) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

var upstream = fetch.Source{Upstream: "up.test", Repository: "lab/app"}

// Copies that could not be made go on in the next process; wrong ones go.
func TestCopies(t *testing.T) {
	s3 := objectstoretest.Start(t)
	p := newPlace(t, s3)
	p.must(p.open())
	manifest := []byte(`{"schemaVersion":2}`)
	d := digest.FromBytes(manifest)
	p.must(p.st.Put(d, manifest, store.Meta{MediaType: ocispec.MediaTypeImageManifest, Sources: []string{upstream.String()}}))
	s3.Down()
	p.Fetched(upstream, d)
	p.Fetched(fetch.Source{Upstream: localName, Repository: "team/app"}, digest.FromString("pushed"))
	p.Fetched(upstream, digest.FromString("evicted"))
	p.close()
	s3.SetFault(nil)
	p.must(p.open())
	daemontest.Until(t, "the copy is there", func() error {
		if len(p.at("cache/")) != 1 || p.Home.Status().Copies > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	content, mediaType, source, err := p.Manifest(t.Context(), d, 1000)
	if err != nil || !bytes.Equal(content, manifest) || mediaType != ocispec.MediaTypeImageManifest || source != upstream.String() {
		t.Errorf("%q, %s, %s, %v", content, mediaType, source, err)
	}
	r, err := p.Blob(t.Context(), upstream, d, 2, 6)
	p.must(err)
	if part, err := io.ReadAll(r); err != nil || string(part) != "schema" || r.Size() != int64(len(manifest)) {
		t.Errorf("%q, %v", part, err)
	}
	p.must(r.Close())
	if _, err := p.Blob(t.Context(), fetch.Source{Upstream: localName, Repository: "team/app"}, d, 0, -1); !errors.Is(err, fetch.ErrNotFound) {
		t.Errorf("an upstream's content by a local name: %v", err)
	}
	s3.Overwrite(p.at("cache/")[0], func(b []byte) { b[0] ^= 1 })
	if _, _, _, err := p.Manifest(t.Context(), d, 1000); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a wrong copy: %v", err)
	}
	daemontest.Until(t, "the wrong copy is gone", func() error {
		if len(p.at("cache/")) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

// A bucket that hangs ends a push in time.
func TestPushEnds(t *testing.T) {
	s3 := objectstoretest.Start(t)
	p := newPlace(t, s3)
	p.must(p.open())
	release := make(chan struct{})
	defer close(release)
	s3.SetFault(func(*http.Request) objectstoretest.Fault { return objectstoretest.Fault{Release: release} })
	began := time.Now()
	if err := p.push([]byte("content")); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}
