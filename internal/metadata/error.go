package metadata

import (
	"errors"
	"fmt"
	"strings"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

var (
	errClosed       = errors.New("shutting down")
	errSilent       = errors.New("no answer")
	errSilentBefore = errors.New("no answer a moment ago")
)

// Error is why a question has no answer: what each source said.
type Error struct {
	Name registry.Name
	What string // tag, digest or "tags"

	kind   upstream.Kind // None: by the causes
	causes []cause
}

type cause struct {
	source *Source
	err    error
}

func (e *Error) add(s *Source, err error) { e.causes = append(e.causes, cause{s, err}) }

// Error says what was tried.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s of %s: ", e.What, e.Name)
	if len(e.causes) == 0 {
		return text + fmt.Sprintf("neither a seeder nor an upstream named %q is known", e.Name.Upstream)
	}
	parts := make([]string, len(e.causes))
	for i, c := range e.causes {
		parts[i] = c.source.Name + ": " + c.err.Error()
	}
	return text + strings.Join(parts, "; ")
}

// Unwrap gives what the sources said.
func (e *Error) Unwrap() []error {
	out := make([]error, len(e.causes))
	for i, c := range e.causes {
		out[i] = c.err
	}
	return out
}

// Kind is what the sources agree on. One that knows of nothing such is right
// whatever others say; one that denies access may lack credentials that another
// has, so that all must.
func (e *Error) Kind() upstream.Kind {
	if e.kind != upstream.None {
		return e.kind
	}
	var all []upstream.Kind
	for _, c := range e.causes {
		if c.source.Client != nil {
			all = append(all, upstream.KindOf(c.err))
		}
	}
	if len(all) == 0 {
		return upstream.Unavailable
	}
	same := true
	for _, k := range all {
		if k == upstream.NotFound {
			return k
		}
		same = same && k == all[0]
	}
	if same && all[0] != upstream.Canceled {
		return all[0]
	}
	return upstream.Unavailable
}

// KindOf is the Kind of an error of this package, else upstream.KindOf.
func KindOf(err error) upstream.Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind()
	}
	return upstream.KindOf(err)
}

// statusOf is the HTTP status that an upstream's error tells of, 0 for none.
func statusOf(err error) int {
	var e *upstream.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}
