package console

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, method, path, tag string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("If-None-Match", tag)
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	w := get(t, http.MethodGet, Path, "")
	h := w.Header()
	if w.Code != 200 || !strings.Contains(w.Body.String(), "<main") || h.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%d %v", w.Code, h)
	}
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
		if !strings.Contains(h.Get("Content-Security-Policy"), want) {
			t.Errorf("the policy lacks %s", want)
		}
	}
	if strings.Contains(h.Get("Content-Security-Policy"), "unsafe") || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-cache" {
		t.Errorf("%v", h)
	}
	if again := get(t, http.MethodGet, Path, h.Get("ETag")); again.Code != 304 {
		t.Errorf("again: %d", again.Code)
	}
	for path, want := range map[string]int{strings.TrimSuffix(Path, "/"): 301, Path + "main.js": 200, Path + "none.js": 404, Path + "../doc.go": 404, Path + "page/main.js": 404} {
		if got := get(t, http.MethodGet, path, "").Code; got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	if got := get(t, http.MethodPost, Path, "").Code; got != 405 {
		t.Error(got)
	}
	if Is("/samara/consoles/") || Is("/v2/") || !Is("/samara/console") || !Is(Path+"x") {
		t.Error("which paths are the page's")
	}
}

// The page is small, asks nobody but its seeder, has nothing inline that the
// policy would stop, and makes no markup of what it shows.
func TestPage(t *testing.T) {
	assets, err := load()
	if err != nil {
		t.Fatal(err)
	}
	all := 0
	for name, a := range assets {
		text := string(a.content)
		all += len(a.content)
		text = strings.ReplaceAll(text, `xmlns="http://www.w3.org/2000/svg"`, "") // a name, not an address
		for _, bad := range []string{`(?i)https?://`, `(?i)["'(]//[a-z]`, `\son[a-z]+=["']`, `<style`, `\sstyle=`, `<script(?: [^>]*)?>[^<]`, `innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function`} {
			if found := regexp.MustCompile(bad).FindString(text); found != "" {
				t.Errorf("%s has %q", name, found)
			}
		}
		for _, m := range regexp.MustCompile(`(?:from|href=|src=) ?"(?:\./)?([a-z]+\.[a-z]+)"`).FindAllStringSubmatch(text, -1) {
			if _, ok := assets[m[1]]; !ok {
				t.Errorf("%s names %s, which is not there", name, m[1])
			}
		}
	}
	if all > 300<<10 {
		t.Errorf("%d bytes in all", all)
	}
}
