package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// orasClient is what the oras command is made of, with the credentials of a user.
func (w *clientWorld) orasClient(t *testing.T, user string) *auth.Client {
	t.Helper()
	client := w.host.HTTPClient()
	t.Cleanup(client.CloseIdleConnections)
	c := &auth.Client{Client: client, Cache: auth.NewCache()}
	if w.mode == "plain" {
		return c
	}
	pem, err := os.ReadFile(w.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
	if user != "nobody" {
		c.Credential = auth.StaticCredential(w.registry, auth.Credential{Username: user, Password: user + "-secret"})
	}
	return c
}

func (w *clientWorld) orasRepository(t *testing.T, user, name string) *remote.Repository {
	t.Helper()
	r, err := remote.NewRepository(w.registry + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	r.Client, r.PlainHTTP = w.orasClient(t, user), w.mode == "plain"
	return r
}

// oras does with the library what the other clients do with a command.
func (w *clientWorld) oras(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	refused := func(what string, err error) {
		t.Helper()
		if resp := (*errcode.ErrorResponse)(nil); !errors.As(err, &resp) || resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
	const appName, copyName = "team/oras/app", "team/oras/copy"
	app := w.orasRepository(t, "robot", appName)
	layout, err := oci.NewFromFS(ctx, os.DirFS(filepath.Join(w.dir, "index")))
	must("open the layout", err)

	// push: an index with its images, and two artifacts about it
	root, err := oras.Copy(ctx, layout, "v1", app, "v1", oras.DefaultCopyOptions)
	must("push", err)
	if root.Digest.String() != w.vars["index_digest"] {
		t.Errorf("pushed %s", root.Digest)
	}
	var sbom ocispec.Descriptor
	for _, kind := range []string{"application/vnd.example.signature", "application/vnd.example.sbom"} {
		file, err := oras.PushBytes(ctx, app, "text/plain", []byte("about v1: "+kind))
		must("push a file", err)
		sbom, err = oras.PackManifest(ctx, app, oras.PackManifestVersion1_1, kind, oras.PackManifestOptions{Subject: &root, Layers: []ocispec.Descriptor{file}})
		must("attach", err)
	}

	// referrers, all and of one type
	for kind, want := range map[string]int{"": 2, sbom.ArtifactType: 1} {
		var found []ocispec.Descriptor
		must("referrers", app.Referrers(ctx, root, kind, func(page []ocispec.Descriptor) error { found = append(found, page...); return nil }))
		if len(found) != want || !slices.ContainsFunc(found, func(d ocispec.Descriptor) bool { return d.Digest == sbom.Digest }) {
			t.Errorf("referrers of type %q: %v", kind, found)
		}
	}

	// copy to another repository, with what refers to it
	to := w.orasRepository(t, "robot", copyName)
	_, err = oras.ExtendedCopy(ctx, app, "v1", to, "v1", oras.DefaultExtendedCopyOptions)
	must("copy", err)
	about, err := to.Predecessors(ctx, root)
	must("referrers of the copy", err)
	if len(about) != 2 {
		t.Errorf("the copy has referrers %v", about)
	}

	// list
	var tags []string
	must("tag", app.Tag(ctx, root, "stable"))
	must("tags", app.Tags(ctx, "", func(page []string) error { tags = append(tags, page...); return nil }))
	if !slices.Equal(tags, []string{"stable", "v1"}) {
		t.Errorf("tags: %v", tags)
	}
	registry, err := remote.NewRegistry(w.registry)
	must("registry", err)
	registry.Client, registry.PlainHTTP = w.orasClient(t, "robot"), w.mode == "plain"
	var names []string
	must("catalog", registry.Repositories(ctx, "", func(page []string) error { names = append(names, page...); return nil }))
	if !slices.Contains(names, appName) || !slices.Contains(names, copyName) {
		t.Errorf("repositories: %v", names)
	}

	// pull
	alice := w.orasRepository(t, "alice", copyName)
	pulled, err := oci.New(t.TempDir())
	must("make a layout", err)
	_, err = oras.Copy(ctx, alice, "v1", pulled, "v1", oras.DefaultCopyOptions)
	must("pull", err)
	if w.mode == "secured" {
		_, err = oras.PushBytes(ctx, alice, "text/plain", []byte("forged"))
		refused("push by who may only pull", err)
		refused("delete by who may only pull", alice.Delete(ctx, root))
		_, err = w.orasRepository(t, "nobody", copyName).Resolve(ctx, "v1")
		refused("pull by nobody", err)
	}

	// delete: the referrer goes from the list, the manifest with its tags
	must("delete a referrer", to.Delete(ctx, sbom))
	about, err = to.Predecessors(ctx, root)
	must("referrers", err)
	if len(about) != 1 {
		t.Errorf("referrers after one was deleted: %v", about)
	}
	must("delete", to.Delete(ctx, root))
	if _, err := to.Resolve(ctx, "v1"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("a deleted manifest: %v", err)
	}
}
