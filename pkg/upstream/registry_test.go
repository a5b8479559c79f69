package upstream

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
)

// dockerRegistry starts Debian's docker-registry and returns "127.0.0.1:PORT".
func dockerRegistry(t *testing.T) string {
	t.Helper()
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed (apt install docker-registry): the real upstream is not tested")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: '127.0.0.1:0'}\n", filepath.Join(dir, "data")), 0o600)
	cmd := exec.CommandContext(t.Context(), binary, "serve", config)
	cmd.WaitDelay = 5 * time.Second
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = pw, pw
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = pw.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = pr.Close()
	})
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	var log bytes.Buffer
	lines := bufio.NewScanner(pr)
	for lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if m := listening.FindSubmatch(lines.Bytes()); m != nil {
			done := make(chan struct{})
			go func() { // the pipe must not fill
				defer close(done)
				_, _ = io.Copy(io.Discard, pr)
			}()
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-done
			})
			return string(m[1])
		}
	}
	t.Fatalf("docker-registry did not start:\n%s", log.String())
	return ""
}

// The real thing that the acceptance runs use as their upstream.
func TestDockerRegistry(t *testing.T) {
	addr := dockerRegistry(t)
	idle := &http.Transport{DisableKeepAlives: true}
	push := func(tag string, size int64) digest.Digest {
		t.Helper()
		img, err := random.Image(size, 2)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(addr+"/library/app:"+tag, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img, remote.WithTransport(idle), remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
		h, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return digest.Digest(h.String())
	}
	index, err := random.Index(1000, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	d1 := push("one", 300_000)
	push("two", 1000)
	push("three", 1000)
	ref, _ := name.ParseReference(addr+"/library/app:index", name.Insecure)
	if err := remote.WriteIndex(ref, index, remote.WithTransport(idle), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}

	c := client(t, "http://"+addr, Options{})
	ctx := t.Context()
	d, err := c.Head(ctx, "up", "library/app", "one")
	if err != nil || d.Digest != d1 {
		t.Fatalf("head: %+v, %v", d, err)
	}
	m, err := c.Manifest(ctx, "up", "library/app", "one", nil)
	if err != nil || m.Digest != d1 || m.MediaType != d.MediaType || int64(len(m.Content)) != d.Size {
		t.Fatalf("manifest: %+v, %v", m, err)
	}
	if _, err := c.Manifest(ctx, "up", "library/app", d1.String(), nil); err != nil {
		t.Errorf("by digest: %v", err)
	}
	h, _ := index.Digest()
	mt, _ := index.MediaType()
	x, err := c.Manifest(ctx, "up", "library/app", "index", nil)
	if err != nil || x.Digest.String() != h.String() || x.MediaType != string(mt) {
		t.Errorf("index: %+v, %v", x, err)
	}

	layer := digest.Digest(regexp.MustCompile(`"layers":\[.*?"digest":"(sha256:[0-9a-f]+)"`).FindStringSubmatch(string(m.Content))[1])
	read := func(off, n int64) ([]byte, int64) {
		t.Helper()
		r, err := c.Blob(ctx, "up", "library/app", layer, off, n)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return b, r.Size()
	}
	whole, size := read(0, -1)
	if digest.FromBytes(whole) != layer || size != int64(len(whole)) {
		t.Errorf("layer: %d bytes of %d", len(whole), size)
	}
	if part, total := read(1000, 5000); !bytes.Equal(part, whole[1000:6000]) || total != size {
		t.Errorf("range: %d bytes of %d", len(part), total)
	}
	_, err = c.Blob(ctx, "up", "library/app", layer, size, 1)
	wantKind(t, err, Invalid)
	_, err = c.Blob(ctx, "up", "library/app", digest.FromString("none"), 0, -1)
	wantKind(t, err, NotFound, "BLOB_UNKNOWN")
	_, err = c.Manifest(ctx, "up", "library/app", "none", nil)
	wantKind(t, err, NotFound, "MANIFEST_UNKNOWN")
	tags, err := c.Tags(ctx, "up", "library/app", 0, "")
	if err != nil || fmt.Sprint(tags) != "[index one three two]" {
		t.Errorf("tags: %v, %v", tags, err)
	}
	tags, err = c.Tags(ctx, "up", "library/app", 2, "index")
	if err != nil || fmt.Sprint(tags) != "[one three]" {
		t.Errorf("some tags: %v, %v", tags, err)
	}
	_, err = c.Tags(ctx, "up", "library/none", 0, "")
	wantKind(t, err, NotFound)
}
