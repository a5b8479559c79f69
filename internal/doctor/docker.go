package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// dockerd is one, by its API.
type dockerd struct{ client *http.Client }

func newDockerd(socket string) *dockerd { return &dockerd{client: socketClient(socket, false)} }

// call does a request and reads the answer whole.
func (d *dockerd) call(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, bare(err)
	}
	defer resp.Body.Close() // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode > 299 {
		var said struct{ Message string }
		if json.Unmarshal(body, &said) == nil && said.Message != "" {
			return nil, errors.New(said.Message)
		}
		return nil, fmt.Errorf("answered %s", resp.Status)
	}
	return body, nil
}

// pull implements puller.
func (d *dockerd) pull(ctx context.Context, image string) error {
	name, dg, _ := strings.Cut(image, "@")
	body, err := d.call(ctx, http.MethodPost, "/images/create", url.Values{"fromImage": {name}, "tag": {dg}})
	if err != nil {
		return err
	}
	// The answer is 200 before anything was pulled; what fails is in its body.
	dec := json.NewDecoder(bytes.NewReader(body))
	for {
		var line struct{ Error string }
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("an answer that is not dockerd's: %w", err)
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
	}
}

// remove implements puller. dockerd calls images of Docker Hub without its name.
func (d *dockerd) remove(ctx context.Context, image string) error {
	_, err := d.call(ctx, http.MethodDelete, "/images/"+strings.TrimPrefix(image, "docker.io/"), nil)
	return err
}

// pulls implements historian, from the events that dockerd remembers (256).
func (d *dockerd) pulls(ctx context.Context) ([]pulled, error) {
	now := time.Now()
	body, err := d.call(ctx, http.MethodGet, "/events", url.Values{
		"since": {strconv.FormatInt(now.Add(-lately).Unix(), 10)}, "until": {strconv.FormatInt(now.Unix(), 10)},
		"filters": {`{"type":["image"],"event":["pull"]}`}})
	if err != nil {
		return nil, err
	}
	var out []pulled
	dec := json.NewDecoder(bytes.NewReader(body))
	for {
		var e struct {
			Actor struct{ ID string }
			Time  int64 `json:"time"`
		}
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		out = append(out, pulled{image: hubName(e.Actor.ID), at: time.Unix(e.Time, 0)})
	}
}

// hubName gives an image its registry, which docker leaves out for Docker Hub.
func hubName(image string) string {
	first, _, ok := strings.Cut(image, "/")
	if !ok {
		return "docker.io/library/" + image
	}
	if first == "localhost" || strings.ContainsAny(first, ".:") {
		return image
	}
	return "docker.io/" + image
}

// close implements puller.
func (d *dockerd) close() { d.client.CloseIdleConnections() }
