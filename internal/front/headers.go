package front

import (
	"net/http"
	"strconv"
	"time"
)

// Headers keeps browsers from doing anything with what somebody pushed: a
// manifest goes out with the media type that came with it. hsts is how long a
// browser is to come by TLS only, where it came by TLS; 0 says nothing.
func Headers(hsts time.Duration, next http.Handler) http.Handler {
	sts := "max-age=" + strconv.FormatInt(int64(hsts/time.Second), 10)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		if hsts > 0 && r.URL.Scheme == "https" {
			h.Set("Strict-Transport-Security", sts)
		}
		next.ServeHTTP(w, r)
	})
}
