package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

// Path is where the page is.
const Path = "/samara/console/"

// policy lets the page load its own files and ask its own host, and nothing else;
// text that comes from the swarm cannot become a script, whatever the page does.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

//go:embed page
var files embed.FS

// asset is a file of the page.
type asset struct {
	content []byte
	mime    string
	etag    string
}

// Is tells whether a path is one of the page's.
func Is(p string) bool { return p+"/" == Path || strings.HasPrefix(p, Path) }

// Handler serves the page below Path.
func Handler() http.Handler {
	assets, err := load()
	if err != nil {
		panic(err) // an embedded file can be read
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, Path)
		if r.URL.Path+"/" == Path {
			http.Redirect(w, r, Path, http.StatusMovedPermanently)
			return
		}
		if name == "" {
			name = "index.html"
		}
		a, ok := assets[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only to be read", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", a.mime)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // asked for again each time: another version may run now
		h.Set("ETag", a.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.content))
	})
}

func load() (map[string]asset, error) {
	assets := map[string]asset{}
	return assets, fs.WalkDir(files, "page", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		t := types[path.Ext(name)]
		if t == "" {
			return fmt.Errorf("%s: of no type that is served", name)
		}
		sum := sha256.Sum256(content)
		assets[strings.TrimPrefix(name, "page/")] = asset{content, t, `"` + hex.EncodeToString(sum[:12]) + `"`}
		return nil
	})
}

// types do not depend on what the host's own table says.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}
