package events

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/samara-p2p/samara/internal/authorities"
	"github.com/samara-p2p/samara/pkg/auth"
)

// Endpoint is one entry of the file of endpoints.
type Endpoint struct {
	Name         string            `yaml:"name"`
	URL          string            `yaml:"url"`
	Format       string            `yaml:"format"`       // cloudevents (default) or distribution
	Actions      []string          `yaml:"actions"`      // default push and delete
	Kinds        []string          `yaml:"kinds"`        // default manifest and tag
	Repositories []string          `yaml:"repositories"` // patterns; default all
	Headers      map[string]string `yaml:"headers"`
	// AuthorizationFile has the value of the Authorization header, SecretFile the
	// key of the signature. Both are read again for each delivery.
	AuthorizationFile string        `yaml:"authorization-file"`
	SecretFile        string        `yaml:"secret-file"`
	CA                string        `yaml:"ca"` // PEM file of authorities, besides the system's
	Timeout           time.Duration `yaml:"timeout"`
	MaxAge            time.Duration `yaml:"max-age"` // an older event is dropped
	Queue             int           `yaml:"queue"`   // MiB
	Batch             int           `yaml:"batch"`   // events in a request

	repositories []func(string) bool
	roots        *x509.CertPool
}

const (
	maxFile      = 1 << 20
	maxEndpoints = 100
)

var (
	endpointName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	headerName   = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$") // a token of RFC 9110
	headerValue  = regexp.MustCompile(`^[^\x00-\x1f\x7f]*$`)
)

// ReadEndpoints reads a file of endpoints. Errors say which of them is wrong.
func ReadEndpoints(file string) ([]Endpoint, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	var list []Endpoint
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: want a list of endpoints: %w", file, err)
	}
	if len(list) == 0 || len(list) > maxEndpoints {
		return nil, fmt.Errorf("%s: names %d endpoints, not 1 to %d", file, len(list), maxEndpoints)
	}
	names := map[string]bool{}
	for i := range list {
		e := &list[i]
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("%s: endpoint %d (%s): %w", file, i+1, e.Name, err)
		}
		if names[e.Name] {
			return nil, fmt.Errorf("%s: endpoint %d (%s): its name is there before", file, i+1, e.Name)
		}
		names[e.Name] = true
	}
	return list, nil
}

// check fills in defaults.
func (e *Endpoint) check() error {
	if !endpointName.MatchString(e.Name) {
		return fmt.Errorf("name %q: want small letters, digits and '-': its queue is a directory of that name", e.Name)
	}
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("url: want http:// or https:// and a host")
	}
	if u.User != nil {
		return errors.New("url: has credentials in it; put them into authorization-file, like \"Basic …\"")
	}
	defaults(&e.Format, CloudEvents)
	if e.Format != CloudEvents && e.Format != Distribution {
		return fmt.Errorf("format %q: want %s or %s", e.Format, CloudEvents, Distribution)
	}
	if len(e.Actions) == 0 {
		e.Actions = []string{Push, Delete}
	}
	if len(e.Kinds) == 0 {
		e.Kinds = []string{Manifest, Tag}
	}
	if err := oneOf("actions", e.Actions, Push, Pull, Delete); err != nil {
		return err
	}
	if err := oneOf("kinds", e.Kinds, Manifest, Blob, Tag); err != nil {
		return err
	}
	for _, p := range e.Repositories {
		m, err := auth.ParsePattern(p)
		if err != nil {
			return fmt.Errorf("repositories: %w", err)
		}
		e.repositories = append(e.repositories, m)
	}
	for k, v := range e.Headers {
		if !headerName.MatchString(k) || !headerValue.MatchString(v) {
			return fmt.Errorf("headers: %q is none that can be sent", k)
		}
		if slices.Contains([]string{"Authorization", "Content-Type", "Host"}, http.CanonicalHeaderKey(k)) {
			return fmt.Errorf("headers: %s is not set here; for Authorization there is authorization-file", k)
		}
	}
	return errors.Join(e.checkNumbers(), e.checkFiles())
}

func (e *Endpoint) checkNumbers() error {
	defaults(&e.Timeout, 10*time.Second)
	defaults(&e.MaxAge, 72*time.Hour)
	defaults(&e.Queue, 64)
	defaults(&e.Batch, 1)
	switch {
	case e.Timeout < 100*time.Millisecond || e.Timeout > 5*time.Minute:
		return fmt.Errorf("timeout %v is not within 100ms to 5m", e.Timeout)
	case e.MaxAge < time.Minute:
		return fmt.Errorf("max-age %v is less than 1m", e.MaxAge)
	case e.Queue < 1 || e.Queue > 64<<10:
		return fmt.Errorf("queue %d is not within 1 to 65536 MiB", e.Queue)
	case e.Batch < 1 || e.Batch > 1000:
		return fmt.Errorf("batch %d is not within 1 to 1000", e.Batch)
	}
	return nil
}

func (e *Endpoint) checkFiles() error {
	for _, f := range []string{e.AuthorizationFile, e.SecretFile} {
		if f == "" {
			continue
		}
		if _, err := readSecret(f); err != nil {
			return err
		}
	}
	if e.CA == "" {
		return nil
	}
	var err error
	if e.roots, err = authorities.Besides(e.CA); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

// wants tells whether the endpoint is to have an event.
func (e *Endpoint) wants(v *Event) bool {
	return slices.Contains(e.Actions, v.Action) && slices.Contains(e.Kinds, v.Kind) &&
		(len(e.repositories) == 0 || slices.ContainsFunc(e.repositories, func(match func(string) bool) bool { return match(v.Repository) }))
}

// readSecret is a file's content without the line's end. The error has none of it.
func readSecret(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(content))
	if s == "" || !headerValue.MatchString(s) {
		return "", fmt.Errorf("%s: want one line of text", file)
	}
	return s, nil
}

func oneOf(key string, list []string, of ...string) error {
	for _, s := range list {
		if !slices.Contains(of, s) {
			return fmt.Errorf("%s: %q is none of %s", key, s, strings.Join(of, ", "))
		}
	}
	return nil
}

func defaults[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
