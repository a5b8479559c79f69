package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// callTimeout is for one call: a server answers, or waits for a job, within a
	// minute.
	callTimeout = 90 * time.Second
	maxAnswer   = 256 << 20
)

// Client calls the API of a running seeder.
type Client struct {
	http      *http.Client
	base      string // of the URL, before Prefix
	where     string // for people
	authorize func(*http.Request)
}

// AtSocket is a Client of the seeder that listens at a socket of this host.
func AtSocket(path string) *Client {
	var d net.Dialer
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", path)
	}}
	return &Client{http: &http.Client{Transport: tr, Timeout: callTimeout}, base: "http://seeder", where: path}
}

// AtServer is a Client of the seeder whose registry API is at a URL, by user name
// and password; roots may be nil.
func AtServer(server, user, password string, roots *x509.CertPool) (*Client, error) {
	u, err := url.Parse(strings.TrimSuffix(server, "/"))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" || u.User != nil {
		return nil, errors.New("want the seeder's registry API, like https://seeder.example.com:5000")
	}
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return &Client{base: u.String(), where: u.String(),
		// A redirect could take the password elsewhere.
		http: &http.Client{Transport: tr, Timeout: callTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		authorize: func(r *http.Request) {
			if user != "" || password != "" {
				r.SetBasicAuth(user, password)
			}
		}}, nil
}

// Where is whom it calls, for people.
func (c *Client) Where() string { return c.where }

// Call does one operation: path is below Prefix, in is nil for no body. The error
// of the server is an *Error.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+Prefix+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.authorize != nil {
		c.authorize(req)
	}
	resp, err := c.http.Do(req)
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode > 299 {
		return &Error{resp.StatusCode, problem(resp, content)}
	}
	if err := json.Unmarshal(content, out); err != nil {
		return fmt.Errorf("the answer is none of a seeder: %w", err)
	}
	return nil
}

// problem is what an answer says: one of this API, of the guard before it, or of
// something else.
func problem(resp *http.Response, content []byte) string {
	var p struct {
		Error  string
		Errors []struct{ Message string }
	}
	if json.Unmarshal(content, &p) == nil {
		if p.Error != "" {
			return p.Error
		}
		if len(p.Errors) > 0 {
			return p.Errors[0].Message
		}
	}
	return "answered " + resp.Status
}

// Wait returns a job once it has ended. tell, which may be nil, sees it meanwhile.
func (c *Client) Wait(ctx context.Context, id string, tell func(Job)) (Job, error) {
	for {
		var j Job
		wait := "60"
		if tell != nil {
			wait = "1"
		}
		if err := c.Call(ctx, http.MethodGet, "/jobs/"+url.PathEscape(id)+"?wait="+wait, nil, &j); err != nil {
			return j, err
		}
		if j.State != Running {
			return j, nil
		}
		if tell != nil {
			tell(j)
		}
	}
}
