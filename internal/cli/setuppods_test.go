package cli

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestResolveHost(t *testing.T) {
	names := map[string][]string{"one.svc": {"10.96.0.7"}, "six.svc": {"fd00::7"}, "mapped.svc": {"::ffff:10.96.0.7"}, "many.svc": {"10.0.0.1", "10.0.0.2"}}
	find := func(_ context.Context, _, host string) ([]netip.Addr, error) {
		var ips []netip.Addr
		for _, s := range names[host] {
			ips = append(ips, netip.MustParseAddr(s))
		}
		if ips == nil {
			return nil, &net.DNSError{Name: host, Err: "no such host", IsNotFound: true}
		}
		return ips, nil
	}
	for _, c := range []struct{ mirror, want, err string }{
		{mirror: "http://one.svc:5050", want: "http://10.96.0.7:5050"},
		{mirror: "http://one.svc", want: "http://10.96.0.7"},
		{mirror: "http://six.svc:5050", want: "http://[fd00::7]:5050"},
		{mirror: "http://six.svc", want: "http://[fd00::7]"},
		{mirror: "http://mapped.svc:5050", want: "http://10.96.0.7:5050"},
		{mirror: "http://many.svc:5050", err: "2 addresses"},
		{mirror: "http://none.svc:5050", err: "no such host"},
		{mirror: "none.svc", err: "want http://HOST:PORT"},
	} {
		got, err := resolveHost(t.Context(), find, c.mirror)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", c.mirror, got, err)
		}
	}
}

// What is written into the runtimes' files is the address.
func TestSetupResolvesTheMirror(t *testing.T) {
	root := setupHost(t)
	if code, out, errs := setup(t, "apply", "--root", root, "--runtime", "containerd", "--registry", "ghcr.io", "--mirror", "http://127.0.0.1:5050", "--resolve-mirror"); code != 0 {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	b, err := os.ReadFile(filepath.Join(root, "etc/containerd/certs.d/ghcr.io/hosts.toml"))
	if err != nil || !bytes.Contains(b, []byte(`"http://127.0.0.1:5050"`)) {
		t.Errorf("%s%v", b, err)
	}
}

func TestAwaitPods(t *testing.T) {
	for _, c := range []struct {
		name  string
		all   int
		steps []int // addresses of done at each look; -1 is a failure, -2 no such name
		out   string
		err   string
	}{
		{name: "at once", all: 2, steps: []int{2}, out: "2 of 2 nodes are done\n"},
		{name: "one by one", all: 2, steps: []int{-2, 1, 1, 2}, out: "0 of 2 nodes are done\n1 of 2 nodes are done\n2 of 2 nodes are done\n"},
		{name: "more than there were", all: 1, steps: []int{3}, out: "1 of 1 nodes are done\n"},
		{name: "no nodes", all: 0, steps: []int{-2}, out: "0 of 0 nodes are done\n"},
		{name: "DNS comes back", all: 1, steps: []int{-1, 1}, out: "lookup done: refused\n1 of 1 nodes are done\n"},
		{name: "one is away", all: 2, steps: []int{1}, out: "1 of 2 nodes are done\n", err: "1 of 2 nodes are done; the others are away"},
		{name: "DNS is away", all: 1, steps: []int{-1}, out: "lookup done: refused\n", err: "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				look := 0
				find := func(_ context.Context, _, host string) ([]netip.Addr, error) {
					n := c.all
					if host == "done" {
						n = c.steps[min(look, len(c.steps)-1)]
						look++
					}
					switch n {
					case -1:
						return nil, &net.DNSError{Name: host, Err: "refused"}
					case -2:
						return nil, &net.DNSError{Name: host, Err: "no such host", IsNotFound: true}
					}
					return make([]netip.Addr, n), nil
				}
				var out bytes.Buffer
				err := awaitPods(ctx, find, time.Second, &out, "all", "done")
				if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				if out.String() != c.out {
					t.Errorf("said %q, want %q", out.String(), c.out)
				}
			})
		})
	}
}

// hold ends when it is stopped, and not as a failure.
func TestHold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, _, errs := execute(ctx, Peerd(noServe), "setup", "hold"); code != 0 {
		t.Errorf("%d %s", code, errs)
	}
}
