package canary

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// Path is where Handler is on the admin server: POST makes a canary, GET of
// Path/DIGEST tells who has asked for it.
const Path = "/v1/canaries"

// Handler makes canaries and tells of them, as JSON.
func (c *Canaries) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, func(w http.ResponseWriter, _ *http.Request) {
		made, err := c.make()
		switch {
		case errors.Is(err, errMany):
			http.Error(w, err.Error(), http.StatusTooManyRequests)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			answer(w, http.StatusCreated, made)
		}
	})
	mux.HandleFunc("GET "+Path+"/{digest}", func(w http.ResponseWriter, r *http.Request) {
		found, ok := c.get(digest.Digest(r.PathValue("digest")))
		if !ok {
			http.Error(w, errNone.Error(), http.StatusNotFound)
			return
		}
		answer(w, http.StatusOK, found)
	})
	return mux
}

func answer(w http.ResponseWriter, code int, c Canary) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(c) // nobody is left to tell
}
