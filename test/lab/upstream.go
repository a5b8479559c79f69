package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// registryPort is where an Upstream listens on its host.
const registryPort = 5000

// Upstream is a Debian docker-registry on a host.
type Upstream struct {
	*Process
	Host *Host
	Name string // the name that images and ?ns= use for it
	URL  string // http://IP:port
}

// MissingRegistry says why docker-registry cannot run here; nil if it can.
func MissingRegistry() error {
	if _, err := lookPath("docker-registry"); err != nil {
		return fmt.Errorf("no docker-registry (Debian package docker-registry): %w", err)
	}
	return nil
}

const registryConfig = `version: 0.1
log:
  level: info
  formatter: logstash
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %s
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: %s
`

// StartUpstream runs a docker-registry with an empty store on the host.
func StartUpstream(ctx context.Context, h *Host, upstreamName string) (*Upstream, error) {
	bin, err := lookPath("docker-registry")
	if err != nil {
		return nil, fmt.Errorf("start upstream: %w", err)
	}
	data := filepath.Join(h.dir, "registry")
	cfg := filepath.Join(h.dir, "registry.yml")
	if err := os.WriteFile(cfg, fmt.Appendf(nil, registryConfig, data, registryListen(h)), 0o644); err != nil {
		return nil, fmt.Errorf("start upstream: %w", err)
	}
	u := &Upstream{Host: h, Name: upstreamName, URL: "http://" + h.Addr(registryPort)}
	u.Process, err = h.Start(ctx, Command{
		Name: "docker-registry", Path: bin, Args: []string{"serve", cfg},
		Env:   []string{"OTEL_TRACES_EXPORTER=none"},
		Ready: u.URL + "/v2/",
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// registryListen is where a registry listens: everywhere on a host of its own, on
// loopback on the host's address.
func registryListen(h *Host) string {
	if h.netns == "" {
		return h.Addr(registryPort)
	}
	return fmt.Sprintf("0.0.0.0:%d", registryPort)
}

// Push puts an image in the registry. It goes over the host's own loopback: no
// link carries it.
func (u *Upstream) Push(ctx context.Context, img *Image, repo, tag string) error {
	client := u.Host.HTTPClient()
	defer client.CloseIdleConnections()
	return img.Push(ctx, client, u.Host.Addr(registryPort), repo, tag)
}

// Served is what a registry answered, from its log.
type Served struct {
	BlobGets  int   // GET requests for blobs that were answered
	BlobBytes int64 // bytes of blob bodies sent, as the registry counted them
	Manifests int   // GET and HEAD requests for manifests
}

// Since returns the difference to an earlier reading.
func (s Served) Since(b Served) Served {
	return Served{s.BlobGets - b.BlobGets, s.BlobBytes - b.BlobBytes, s.Manifests - b.Manifests}
}

var (
	logMethod  = regexp.MustCompile(`"http\.request\.method":"([A-Z]+)"`)
	logURI     = regexp.MustCompile(`"http\.request\.uri":"([^"]+)"`)
	logWritten = regexp.MustCompile(`"http\.response\.written":(\d+)`)
)

// Served reads the registry's log. A request counts when it has ended; a body
// that was cut counts with what was written to the socket, of which the network
// may have lost the last part.
func (u *Upstream) Served() (Served, error) {
	f, err := os.Open(u.LogPath())
	if err != nil {
		return Served{}, fmt.Errorf("read registry log: %w", err)
	}
	defer f.Close()
	var s Served
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if !strings.Contains(line, `"message":"response completed`) {
			continue
		}
		method, uri := group(logMethod, line), group(logURI, line)
		written, _ := strconv.ParseInt(group(logWritten, line), 10, 64)
		switch {
		case strings.Contains(uri, "/blobs/sha256:") && method == "GET":
			s.BlobGets++
			s.BlobBytes += written
		case strings.Contains(uri, "/manifests/") && (method == "GET" || method == "HEAD"):
			s.Manifests++
		}
	}
	return s, sc.Err()
}

func group(re *regexp.Regexp, s string) string {
	if m := re.FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return ""
}
