package prewarm

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Where Harbor asks. It knows how to drive Dragonfly's manager; these are the
// three requests that its driver makes, and no more of that API.
const (
	HarborHealth = "/healthy"
	HarborJobs   = "/oapi/v1/jobs"
)

const maxHarborBody = 1 << 20

// harborRequest is what Harbor's driver sends. Other keys are of no concern here:
// the headers hold a token for Harbor, and the seeder has credentials of its own.
type harborRequest struct {
	Type string `json:"type"`
	Args struct {
		Type  string `json:"type"`
		URL   string `json:"url"`
		Scope string `json:"scope"`
	} `json:"args"`
}

// harborJob is what it reads.
type harborJob struct {
	ID      int          `json:"id"`
	Created time.Time    `json:"created_at"`
	Updated time.Time    `json:"updated_at"`
	State   string       `json:"state"`
	Result  harborResult `json:"result"`
}

type harborResult struct {
	States []harborState `json:"job_states"`
}

type harborState struct {
	Error   string       `json:"error"`
	Results []harborHost `json:"results"`
}

type harborHost struct {
	Success []harborTask `json:"success_tasks"`
	Failure []harborTask `json:"failure_tasks"`
}

type harborTask struct {
	URL         string `json:"url"`
	Hostname    string `json:"hostname"`
	IP          string `json:"ip"`
	Description string `json:"description,omitempty"`
}

// Harbor answers Harbor's P2P preheat driver for Dragonfly. upstream names the
// upstream at a host; "" for none. user is who asked. Who may ask at all has been
// decided before.
func Harbor(m *Manager, upstream func(host string) string, user func(*http.Request) string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+HarborJobs, func(w http.ResponseWriter, r *http.Request) {
		req, err := readHarbor(http.MaxBytesReader(w, r.Body, maxHarborBody), upstream)
		var o Order
		if err == nil {
			o, err = m.Order(req, user(r))
		}
		if err != nil {
			answerHarbor(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
			return
		}
		answerHarbor(w, http.StatusOK, harborOf(o))
	})
	mux.HandleFunc("GET "+HarborJobs+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		o, err := m.Get(r.Context(), r.PathValue("id"), 0)
		if err != nil {
			answerHarbor(w, http.StatusNotFound, map[string]string{"message": err.Error()})
			return
		}
		answerHarbor(w, http.StatusOK, harborOf(o))
	})
	return mux
}

// readHarbor makes an order of a request: of the image whose manifest its URL
// names, to one host or to all.
func readHarbor(body io.Reader, upstream func(string) string) (Request, error) {
	var in harborRequest
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		return Request{}, fmt.Errorf("the body: %w", err)
	}
	if in.Type != "preheat" || in.Args.Type != "image" {
		return Request{}, fmt.Errorf("type %.40q of %.40q: only images are preheated", in.Type, in.Args.Type)
	}
	u, err := url.Parse(in.Args.URL)
	if err != nil {
		return Request{}, fmt.Errorf("args.url: %w", err)
	}
	rest, ok := strings.CutPrefix(u.Path, "/v2/")
	repository, reference, found := strings.Cut(rest, "/manifests/")
	if !ok || !found || repository == "" || reference == "" {
		return Request{}, fmt.Errorf("args.url: %.200q is no manifest's, like https://harbor.example.com/v2/library/app/manifests/v1", u.Path)
	}
	name := upstream(u.Host)
	if name == "" {
		return Request{}, fmt.Errorf("no upstream of this seeder is at %.100s: give it --upstream %.100s=%s://%.100s", u.Host, u.Hostname(), u.Scheme, u.Host)
	}
	separator := ":"
	if strings.Contains(reference, ":") {
		separator = "@"
	}
	r := Request{Images: []string{name + "/" + repository + separator + reference}}
	switch in.Args.Scope {
	case "", "single_peer", "single_seed_peer":
		r.Hosts = 1
	case "all_peers", "all_seed_peers":
		r.All = true
	default:
		return Request{}, fmt.Errorf("args.scope: %.40q is neither single_peer nor all_peers", in.Args.Scope)
	}
	return r, nil
}

// harborOf tells of an order in Harbor's words.
func harborOf(o Order) harborJob {
	id, _ := strconv.Atoi(o.ID) // orders are numbered
	j := harborJob{ID: id, Created: o.Created, Updated: time.Now().UTC(), State: "PENDING", Result: harborResult{States: []harborState{}}}
	if o.State == Running {
		return j
	}
	j.Updated, j.State = o.Ended, "FAILURE"
	if o.State == Done {
		j.State = "SUCCESS"
	}
	st, hosts := harborState{Error: o.Error}, harborHost{Success: []harborTask{}, Failure: []harborTask{}}
	for _, h := range o.Hosts {
		t := harborTask{URL: o.Images[0].Image, Hostname: h.Peer, IP: h.Address}
		if h.State == Done {
			hosts.Success = append(hosts.Success, t)
			continue
		}
		t.Description = strings.TrimSuffix(h.State+": "+h.Error, ": ")
		hosts.Failure = append(hosts.Failure, t)
	}
	st.Results = []harborHost{hosts}
	j.Result.States = append(j.Result.States, st)
	return j
}

func answerHarbor(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // its types always marshal
		code, b = http.StatusInternalServerError, []byte(`{"message":"the answer cannot be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // nobody is left to tell
}
