package clients

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/samara-p2p/samara/test/lab"
)

// Kinds are the rows of the matrix.
func Kinds() []Kind {
	return []Kind{
		containerdKind("containerd-1.6-ctr", containerd{daemon: "containerd", ctr: "ctr"}),
		containerdKind("containerd-1.6-cri", containerd{daemon: "containerd", ctr: "ctr", cri: true}),
		containerdKind("containerd-2-ctr", containerd{daemon: "containerd2", ctr: "ctr2"}),
		containerdKind("containerd-2-cri", containerd{daemon: "containerd2", ctr: "ctr2", cri: true}),
		containerdKind("containerd-2-cri-local", containerd{daemon: "containerd2", ctr: "ctr2", cri: true, local: true}),
		containerdKind("containerd-2-chunks-1m", containerd{daemon: "containerd2", ctr: "ctr2", cri: true, chunk: 1 << 20}),
		containerdKind("containerd-2-chunks-8m", containerd{daemon: "containerd2", ctr: "ctr2", cri: true, chunk: 8 << 20}),
		{Name: "docker", version: []string{"dockerd", "--version"}, Runtime: "docker", Programs: []string{"dockerd", "docker"},
			New: func(s *Seat) Client { return &docker{Seat: s} }},
		{Name: "podman", version: []string{"podman", "--version"}, Runtime: "podman", Programs: []string{"podman"}, Sticky: true,
			New: func(s *Seat) Client { return &podman{tool{Seat: s}} }},
		{Name: "skopeo", version: []string{"skopeo", "--version"}, Runtime: "podman", Programs: []string{"skopeo"}, Sticky: true,
			New: func(s *Seat) Client { return &skopeo{tool{Seat: s}} }},
		{Name: "crane", version: []string{"crane", "version"}, Programs: []string{"crane"}, MirrorOnly: true,
			New: func(s *Seat) Client { return &crane{tool{Seat: s}} }},
		{Name: "regctl", version: []string{"regctl", "version"}, Programs: []string{"regctl"},
			New: func(s *Seat) Client { return &regctl{tool{Seat: s}} }},
	}
}

// tool is a client without a daemon. What it pulls is in a directory.
type tool struct{ *Seat }

func (t tool) Start(ctx context.Context) error { return t.Remove(ctx) }
func (t tool) Stop()                           {}

func (t tool) out() string { return t.path("out", "image") }

func (t tool) Remove(context.Context) error {
	if err := os.RemoveAll(filepath.Dir(t.out())); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Dir(t.out()), 0o755)
}

type podman struct{ tool }

// Pull keeps what podman stores within the seat. Its run root must be short.
func (p *podman) Pull(ctx context.Context, image string) error {
	short, err := os.MkdirTemp("", "podman")
	if err != nil {
		return err
	}
	defer os.RemoveAll(short)
	_, err = p.run(ctx, []string{"XDG_RUNTIME_DIR=" + short}, "podman", "--root", p.out(), "--runroot", short, "--storage-driver", "vfs", "--events-backend", "none",
		"pull", "--quiet", registryName+"/"+image)
	return err
}

type skopeo struct{ tool }

func (p *skopeo) Pull(ctx context.Context, image string) error {
	_, err := p.run(ctx, nil, "skopeo", "copy", "--quiet", "docker://"+registryName+"/"+image, "dir:"+p.out())
	return err
}

type crane struct{ tool }

// Pull names the mirror in front of the image, for want of a setting.
func (p *crane) Pull(ctx context.Context, image string) error {
	name := registryName + "/" + image
	if p.mirror != "" {
		name = strings.TrimPrefix(p.mirror, "http://") + "/" + name
	}
	_, err := p.run(ctx, nil, "crane", "pull", "--insecure", name, p.out())
	return err
}

type regctl struct{ tool }

func (p *regctl) Start(ctx context.Context) error {
	if err := p.Remove(ctx); err != nil {
		return err
	}
	mirrors := ""
	text := `"` + registryName + `": {"tls": "disabled", "hostname": "` + registryName + `"`
	if p.mirror != "" {
		host := strings.TrimPrefix(p.mirror, "http://")
		text += `, "mirrors": ["` + host + `"]`
		mirrors = `, "` + host + `": {"tls": "disabled", "hostname": "` + host + `"}`
	}
	return os.WriteFile(p.path("regctl.json"), []byte(`{"hosts": {`+text+`}`+mirrors+`}}`), 0o644)
}

func (p *regctl) Pull(ctx context.Context, image string) error {
	_, err := p.run(ctx, []string{"REGCTL_CONFIG=" + p.path("regctl.json")}, "regctl", "image", "copy", registryName+"/"+image, "ocidir://"+p.out()+":pulled")
	return err
}

// HTTPKind talks HTTP as containerd does, and needs no program.
func HTTPKind() Kind {
	return Kind{Name: "http", version: []string{"go", "version"}, Resumes: true, New: func(s *Seat) Client {
		return &httpClient{&lab.HTTPPuller{Client: s.host.HTTPClient(), Mirror: s.mirror, NS: registryName, Upstream: "http://" + s.registry}}
	}}
}

type httpClient struct{ p *lab.HTTPPuller }

func (h *httpClient) Start(context.Context) error  { return nil }
func (h *httpClient) Remove(context.Context) error { return nil }
func (h *httpClient) Stop()                        { h.p.Client.CloseIdleConnections() }

func (h *httpClient) Pull(ctx context.Context, image string) error {
	repo, ref, _ := strings.Cut(image, ":")
	_, err := h.p.Pull(ctx, repo, ref)
	return err
}
