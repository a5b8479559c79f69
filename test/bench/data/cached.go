package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/lab"
)

// nginxPort is where nginx listens on A's host.
const nginxPort = 8081

// cachedGets is how often the blob is read from each server in a run.
const cachedGets = 6

const nginxConf = `daemon off; master_process off; pid nginx.pid; error_log stderr; user root;
events {}
http {
  sendfile on; tcp_nopush on; access_log off; client_body_temp_path tmp; proxy_temp_path tmp;
  fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server { listen 127.0.0.1:%d; location = / { return 200; } location = /blob { alias %s; } }
}
`

// cachedRun measures peerd A and nginx as they serve a complete blob.
func (s *swarm) cachedRun(ctx context.Context) (peerd, nginx float64, err error) {
	b, h := s.b, s.x.Host
	file, err := contentFile(s.x.Data, b.size)
	if err != nil {
		return 0, 0, err
	}
	conf := filepath.Join(h.Dir(), "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, nginxPort, file), 0o644); err != nil {
		return 0, 0, err
	}
	base := "http://" + h.Local(nginxPort)
	ng, err := h.Start(ctx, lab.Command{Name: "nginx", Path: b.nginx, Args: []string{"-p", h.Dir(), "-e", "stderr", "-c", conf}, Ready: base + "/"})
	if err != nil {
		return 0, 0, err
	}
	defer ng.Kill()
	// In turns: what else the machine does strikes both.
	for range cachedGets {
		n, err := b.served(ctx, h, ng, base+"/blob")
		if err != nil {
			return 0, 0, err
		}
		p, err := b.served(ctx, h, s.x.Process, b.blobURL(s.x.Mirror))
		if err != nil {
			return 0, 0, err
		}
		nginx, peerd = nginx+n/cachedGets, peerd+p/cachedGets
	}
	return peerd, nginx, nil
}

// served measures the process p as a client on its host reads url once.
func (b *bench) served(ctx context.Context, h *lab.Host, p *lab.Process, url string) (float64, error) {
	client := h.HTTPClient()
	defer client.CloseIdleConnections()
	before, err := proc.CPU(p.Pid())
	if err != nil {
		return 0, err
	}
	if err := b.get(ctx, client, url); err != nil {
		return 0, err
	}
	after, err := proc.CPU(p.Pid())
	return perGB(after-before, b.size), err
}

// contentFile finds the content of a complete blob in a store or a registry (its
// name is the store's, see docs/store.md, or the digest): the only file of its size.
func contentFile(data string, size int64) (string, error) {
	found := ""
	err := filepath.WalkDir(data, func(path string, _ os.DirEntry, err error) error {
		if in, serr := os.Stat(path); err == nil && serr == nil && in.Mode().IsRegular() && in.Size() == size && in.Name() != "data.part" {
			found = path
		}
		return err
	})
	if err == nil && found == "" {
		err = fmt.Errorf("no file of %d bytes in %s", size, data)
	}
	return found, err
}
