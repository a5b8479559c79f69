package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"go.uber.org/zap"
)

const (
	helperTimeout = 10 * time.Second
	helperLimit   = 64 << 10         // bytes of its answer
	helperTTL     = 10 * time.Minute // the protocol names no end; the shortest that clouds give is 15 min
	helperRefresh = 8 * time.Minute  // then it is asked ahead, and nobody waits
	helperAtMost  = 30 * time.Second // credentials younger than this are not asked for again, even when they are refused
)

// helpers asks credential helpers, programs named docker-credential-NAME, and
// keeps what they say for a while. One question per program and server is under
// way at a time.
type helpers struct {
	c *Client

	mu    sync.Mutex
	known map[helperKey]*helped
}

type helperKey struct{ program, server string }

// helped is what one helper said about one server.
type helped struct {
	auth   authn.AuthConfig
	at     time.Time     // zero: nothing is known
	flight *helperFlight // a question under way
}

type helperFlight struct {
	done chan struct{}
	auth authn.AuthConfig
	err  error
}

// get returns the credentials that a helper has for a server; the zero value
// when it has none.
func (h *helpers) get(ctx context.Context, program, server string) (authn.AuthConfig, error) {
	key := helperKey{program, server}
	h.mu.Lock()
	k := h.known[key]
	if k == nil {
		k = &helped{}
		if h.known == nil {
			h.known = map[helperKey]*helped{}
		}
		h.known[key] = k
	}
	age := h.c.now().Sub(k.at)
	fresh := !k.at.IsZero() && age < helperTTL
	if (!fresh || age >= helperRefresh) && k.flight == nil {
		k.flight = &helperFlight{done: make(chan struct{})}
		h.c.background.Go(func() { h.ask(key, k, k.flight) })
	}
	f, auth := k.flight, k.auth
	h.mu.Unlock()
	if fresh {
		return auth, nil
	}
	select {
	case <-f.done:
		return f.auth, f.err
	case <-ctx.Done():
		return authn.AuthConfig{}, context.Cause(ctx)
	}
}

// ask runs the program. Who waits for it may leave.
func (h *helpers) ask(key helperKey, k *helped, f *helperFlight) {
	ctx, cancel := context.WithTimeout(h.c.ctx, helperTimeout)
	defer cancel()
	f.auth, f.err = runHelper(ctx, key.program, key.server)
	if f.err != nil && h.c.ctx.Err() == nil {
		h.c.o.Log.Warn("a credential helper gives nothing", zap.String("program", key.program), zap.String("server", key.server), zap.Error(f.err))
	}
	h.mu.Lock()
	k.flight = nil
	if f.err == nil {
		k.auth, k.at = f.auth, h.c.now()
	}
	h.mu.Unlock()
	close(f.done)
}

// refuted says that a server takes what its helper said no longer.
func (h *helpers) refuted(server string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, k := range h.known {
		if key.server == server && h.c.now().Sub(k.at) > helperAtMost {
			k.at = time.Time{}
		}
	}
}

// notFound is what helpers print that have nothing for a server, by
// docker-credential-helpers.
const notFound = "credentials not found in native keychain"

// runHelper speaks the protocol of docker's credential helpers: the server on
// standard input, a JSON object on standard output. Nothing of what it prints
// gets into an error.
func runHelper(ctx context.Context, program, server string) (authn.AuthConfig, error) {
	out := &limited{limit: helperLimit}
	cmd := exec.CommandContext(ctx, program, "get") // #nosec G204 -- named by the operator
	cmd.Stdin = strings.NewReader(server)
	cmd.Stdout = out
	cmd.WaitDelay = time.Second // for children of its own that keep the pipe open
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case out.over:
		return authn.AuthConfig{}, fmt.Errorf("%s prints more than %d KiB", program, helperLimit>>10)
	case ctx.Err() != nil:
		return authn.AuthConfig{}, fmt.Errorf("%s did not answer within %s", program, helperTimeout)
	case errors.As(err, &exit) && strings.Contains(out.buf.String(), notFound):
		return authn.AuthConfig{}, nil
	case errors.As(err, &exit):
		return authn.AuthConfig{}, fmt.Errorf("%s ended with %s; run `echo %s | %s get` as the daemon's user to see why", program, exit.ProcessState, server, program)
	case err != nil:
		return authn.AuthConfig{}, fmt.Errorf("%s cannot be run: %w", program, err)
	}
	var said struct{ Username, Secret string }
	if json.Unmarshal(out.buf.Bytes(), &said) != nil {
		return authn.AuthConfig{}, fmt.Errorf("%s did not print a JSON object", program)
	}
	if said.Username == "<token>" { // of docker's protocol: an identity token
		return authn.AuthConfig{IdentityToken: said.Secret}, nil
	}
	return authn.AuthConfig{Username: said.Username, Password: said.Secret}, nil
}

// limited keeps the beginning of what is written.
type limited struct {
	buf   bytes.Buffer
	limit int
	over  bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > l.limit {
		l.over = true
		return 0, errors.New("too long")
	}
	return l.buf.Write(p)
}
