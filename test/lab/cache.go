package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Cache is a pull-through cache of an upstream that knows no swarm: what Samara is
// compared with.
type Cache struct {
	*Process
	Host *Host
	URL  string // http://IP:port of its registry API
}

// MissingNginx says why nginx cannot run here; nil if it can.
func MissingNginx() error {
	if _, err := lookPath("nginx"); err != nil {
		return fmt.Errorf("no nginx (Debian package nginx): %w", err)
	}
	return nil
}

const registryProxyConfig = registryConfig + `proxy:
  remoteurl: %s
`

// StartRegistryProxy runs Debian's docker-registry on the host as a pull-through
// cache of the upstream at this URL.
func StartRegistryProxy(ctx context.Context, h *Host, upstreamURL string) (*Cache, error) {
	bin, err := lookPath("docker-registry")
	if err != nil {
		return nil, fmt.Errorf("start registry proxy: %w", err)
	}
	c := &Cache{Host: h, URL: "http://" + h.Addr(registryPort)}
	cfg := filepath.Join(h.dir, "proxy.yml")
	text := fmt.Appendf(nil, registryProxyConfig, filepath.Join(h.dir, "proxy"), registryListen(h), upstreamURL)
	if err := os.WriteFile(cfg, text, 0o644); err != nil {
		return nil, fmt.Errorf("start registry proxy: %w", err)
	}
	c.Process, err = h.Start(ctx, Command{
		Name: "registry-proxy", Path: bin, Args: []string{"serve", cfg},
		Env:   []string{"OTEL_TRACES_EXPORTER=none"},
		Ready: c.URL + "/v2/",
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// nginxCacheConfig caches blobs in slices, as the manual of ngx_http_slice_module
// has it: ranges and concurrent clients cost the upstream each slice once. All
// files are below the first %[1]s.
const nginxCacheConfig = `user root;
worker_processes auto;
daemon off;
pid %[1]s/nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/temp;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  proxy_cache_path %[1]s/cache levels=1:2 keys_zone=blobs:16m max_size=64g inactive=1d use_temp_path=off;
  server {
    listen %[2]s;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location ~ /blobs/ {
      slice 1m;
      proxy_cache blobs;
      proxy_cache_key $uri$slice_range;
      proxy_set_header Range $slice_range;
      proxy_cache_valid 200 206 1d;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 10m;
      proxy_cache_lock_age 10m;
      proxy_pass %[3]s;
    }
    location / { proxy_pass %[3]s; }
  }
}
`

// Nginx finds the program, which a user's PATH often lacks.
func Nginx() (string, error) {
	path, err := lookPath("nginx")
	if err != nil {
		return "", fmt.Errorf("no nginx (Debian package nginx): %w", err)
	}
	return path, nil
}

// StartNginxCache runs nginx on the host as a cache of the upstream at this URL.
func StartNginxCache(ctx context.Context, h *Host, upstreamURL string) (*Cache, error) {
	bin, err := Nginx()
	if err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	c := &Cache{Host: h, URL: "http://" + h.Addr(registryPort)}
	dir := filepath.Join(h.dir, "nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	cfg := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(cfg, fmt.Appendf(nil, nginxCacheConfig, dir, registryListen(h), upstreamURL), 0o644); err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	c.Process, err = h.Start(ctx, Command{
		Name: "nginx", Path: bin, Args: []string{"-e", "stderr", "-p", dir, "-c", cfg},
		Ready: c.URL + "/v2/",
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}
