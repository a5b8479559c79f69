package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// podman is the program, which reads its configuration at each pull.
type podman struct{ path string }

// maxSaid bounds what is shown of a program's complaint, in bytes.
const maxSaid = 300

// command runs a program; the error has the end of what it said.
func command(ctx context.Context, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	var complaint bytes.Buffer
	cmd.Stderr = &limited{w: &complaint, left: 64 << 10}
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return nil, errors.New("it did not end in time")
	}
	said := strings.Join(strings.Fields(complaint.String()), " ")
	return nil, fmt.Errorf("%w: %s", err, said[max(0, len(said)-maxSaid):])
}

// limited drops what is too much.
type limited struct {
	w    io.Writer
	left int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// pull implements puller.
func (p *podman) pull(ctx context.Context, image string) error {
	_, err := command(ctx, p.path, "pull", "--quiet", image)
	return err
}

// remove implements puller.
func (p *podman) remove(ctx context.Context, image string) error {
	_, err := command(ctx, p.path, "rmi", "--force", image)
	return err
}

// pulls implements historian, from podman's log of events.
func (p *podman) pulls(ctx context.Context) ([]pulled, error) {
	out, err := command(ctx, p.path, "events", "--stream=false", "--since", lately.String(), "--filter", "event=pull", "--format", "json")
	if err != nil {
		return nil, err
	}
	var list []pulled
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var e struct {
			Name string
			Time time.Time
		}
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, pulled{image: e.Name, at: e.Time})
	}
}

// close implements puller.
func (p *podman) close() {}

// skopeo stands in where there is no podman: it reads the same files.
type skopeo struct{ path string }

// pull implements puller.
func (s *skopeo) pull(ctx context.Context, image string) error {
	dir, err := os.MkdirTemp("", "peerd-doctor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	_, err = command(ctx, s.path, "copy", "--quiet", "--insecure-policy", "docker://"+image, "dir:"+dir)
	return err
}

// remove implements puller: nothing is kept.
func (s *skopeo) remove(context.Context, string) error { return nil }

// close implements puller.
func (s *skopeo) close() {}
