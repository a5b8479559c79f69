package registry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxList bounds one page of tags or repositories.
const maxList = 10000

// page asks list for the page that a request wants, and for one more, which
// tells whether there is a next one; it then sets the Link header.
func page(w *response, r *http.Request, path string, list func(limit int, last string) ([]string, error)) ([]string, error) {
	q := r.URL.Query()
	n := -1
	if s := q.Get("n"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 0 {
			return nil, &Error{Status: http.StatusBadRequest, Code: "PAGINATION_NUMBER_INVALID", Message: "n must be a number, 0 or more"}
		}
		n = min(v, maxList)
	}
	if n == 0 {
		return []string{}, nil
	}
	all, err := list(max(0, n+1), q.Get("last"))
	if err != nil {
		return nil, err
	}
	if n > 0 && len(all) > n {
		all = all[:n]
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}
		if ns := q.Get("ns"); ns != "" {
			next.Set("ns", ns)
		}
		u := url.URL{Path: path, RawQuery: next.Encode()}
		w.Header().Set("Link", "<"+u.String()+`>; rel="next"`)
	}
	return append([]string{}, all...), nil
}

func (h *handler) tags(w *response, r *http.Request, path string, req Request) error {
	tags, err := page(w, r, "/v2/"+path+"/tags/list", func(limit int, last string) ([]string, error) {
		return h.backend.Tags(r.Context(), req.Name, limit, last)
	})
	if err != nil {
		return err
	}
	return sendJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{path, tags})
}

func (h *handler) catalog(w *response, r *http.Request) error {
	if h.Cataloger == nil {
		return &Error{Status: http.StatusNotFound, Code: CodeUnsupported, Message: "repositories are not listed here"}
	}
	names, err := page(w, r, "/v2/_catalog", func(limit int, last string) ([]string, error) {
		return h.Cataloger.Repositories(r.Context(), limit, last)
	})
	if err != nil {
		return err
	}
	return sendJSON(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{names})
}

func (h *handler) referrers(w *response, r *http.Request, req Request) error {
	if h.Referrers == nil { // 404 makes clients look for the fallback tag (contract 2)
		return &Error{Status: http.StatusNotFound, Code: CodeManifestUnknown, Message: "referrers are not listed here"}
	}
	artifactType := r.URL.Query().Get("artifactType")
	list, err := h.Referrers.Referrers(r.Context(), req, artifactType)
	if err != nil {
		return err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []Descriptor{}}
	for _, d := range list {
		if artifactType == "" || d.ArtifactType == artifactType {
			index.Manifests = append(index.Manifests, d)
		}
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return sendJSON(w, ocispec.MediaTypeImageIndex, index)
}

func sendJSON(w *response, mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that left shows in the metrics
	return nil
}
