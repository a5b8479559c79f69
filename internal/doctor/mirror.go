package doctor

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// pingTimeout is within which a mirror answers /v2/, for which it asks nobody.
const pingTimeout = 3 * time.Second

// direct asks without a proxy, as runtimes ask a mirror on loopback.
func direct() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// lookAtMirror asks the mirror for /v2/, as clients do before all else.
func (d *doctor) lookAtMirror(ctx context.Context) Check {
	c := Check{Check: checkMirror, Subject: d.Mirror, Result: Fault}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	began := time.Now()
	resp, err := get(ctx, strings.TrimSuffix(d.Mirror, "/")+"/v2/")
	switch {
	case err == nil && resp.code == http.StatusOK && resp.header.Get("Docker-Distribution-Api-Version") != "":
		c.Result, c.Text = OK, fmt.Sprintf("answers, in %s", time.Since(began).Round(100*time.Microsecond))
	case err == nil:
		c.Code, c.Text = codePortTaken, fmt.Sprintf("%s, and it answers /v2/ with %s, as no registry does", d.holder(), resp.status)
		c.Remedy = "stop it, or give peerd another --listen and run `peerd setup apply` again"
	case errors.Is(err, syscall.ECONNREFUSED):
		c.Code, c.Text = codeMirrorDown, "nothing listens there; until it does, clients go to the registries themselves"
		c.Remedy = "start peerd (`systemctl start peerd`), and look into its log why it ended; or mend --listen"
		if taken := d.takenPort(); taken != "" {
			c.Code, c.Text, c.Remedy = codePortTaken, "peerd does not run, and cannot: "+taken, "stop it, or give peerd another port"
		}
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err):
		c.Code, c.Text = codeMirrorHung, fmt.Sprintf("%s, but /v2/ is not answered within %s: pulls wait for it", d.holder(), pingTimeout)
		c.Remedy = "restart peerd (`systemctl restart peerd`); before, `kill -QUIT` has it write into its log what it does"
		if !d.listens() {
			c.Text, c.Remedy = "connections are not answered: packets to it are dropped", "let packets to this port through on this host (`iptables -S`, `nft list ruleset`)"
		}
	default:
		c.Code, c.Text = codeMirrorDown, err.Error()
		c.Remedy = "start peerd (`systemctl start peerd`), or mend --listen"
	}
	return c
}

// head is the head of an answer.
type head struct {
	code   int
	status string
	header http.Header
}

// get asks once and reads no body.
func get(ctx context.Context, u string) (*head, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := direct().Do(req)
	if err != nil {
		return nil, bare(err)
	}
	return &head{resp.StatusCode, resp.Status, resp.Header}, resp.Body.Close()
}

// holder says who has the mirror's port.
func (d *doctor) holder() string {
	u, err := url.Parse(d.Mirror)
	if err != nil {
		return "somebody listens"
	}
	if who := listener(u.Hostname(), u.Port()); who != "" {
		return who + " listens"
	}
	return "somebody listens"
}

func (d *doctor) listens() bool {
	u, err := url.Parse(d.Mirror)
	return err == nil && len(listeners(u.Hostname(), u.Port())) > 0
}

// takenPort names who has a port that peerd would need; "" for nobody.
func (d *doctor) takenPort() string {
	for _, p := range d.Ports {
		host, port, err := net.SplitHostPort(p.Addr)
		if err != nil || port == "0" || len(listeners(host, port)) == 0 {
			continue
		}
		who := listener(host, port)
		switch {
		case strings.HasPrefix(who, "peerd "): // one with another configuration, which says so itself
			continue
		case who == "":
			who = "another process, which only root may name,"
		}
		return fmt.Sprintf("%s has port %s of %s", who, port, p.Flag)
	}
	return ""
}

// listeners are the inodes of sockets that listen where a listener at host and port
// would be in their way, as far as /proc tells.
func listeners(host, port string) map[string]bool {
	found := map[string]bool{}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return found
	}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			const listen = "0A"
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != listen {
				continue
			}
			addr, hexPort, _ := strings.Cut(f[1], ":")
			if hexPort == fmt.Sprintf("%04X", n) && inTheWay(host, addr) {
				found[f[9]] = true
			}
		}
	}
	return found
}

// inTheWay tells whether a socket at an address, as /proc/net/tcp has it (words of
// the machine's byte order), is at host, too.
func inTheWay(host, addr string) bool {
	raw, err := hex.DecodeString(addr)
	if err != nil || len(raw)%4 != 0 {
		return false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	at, ok := netip.AddrFromSlice(raw)
	want, err := netip.ParseAddr(host)
	if err != nil || !ok {
		return true // a name, or nothing: anywhere
	}
	return at.IsUnspecified() || want.IsUnspecified() || at.Unmap() == want.Unmap()
}

// listener is the program that listens there, and its pid; "" where that cannot
// be seen.
func listener(host, port string) string {
	inodes := listeners(host, port)
	if len(inodes) == 0 {
		return ""
	}
	procs, err := procfs.AllProcs()
	if err != nil {
		return ""
	}
	for _, p := range procs {
		targets, err := p.FileDescriptorTargets()
		if err != nil {
			continue // another user's
		}
		for _, t := range targets {
			if inode, ok := strings.CutPrefix(strings.TrimSuffix(t, "]"), "socket:["); ok && inodes[inode] {
				name, err := p.Comm()
				if err != nil {
					name = "a process"
				}
				return fmt.Sprintf("%s (pid %d)", name, p.PID)
			}
		}
	}
	return ""
}

// adminClient calls peerd's admin server.
type adminClient struct {
	base   string
	client *http.Client
}

func newAdminClient(base string) *adminClient {
	return &adminClient{base: strings.TrimSuffix(base, "/"), client: direct()}
}

func (a *adminClient) call(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, nil)
	if err != nil {
		return err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return bare(err)
	}
	defer resp.Body.Close() // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return err
	}
	if resp.StatusCode > 299 {
		return fmt.Errorf("%s %s: answered %s: %.200s", method, path, resp.Status, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s %s: the answer is none of a peerd: %w", method, path, err)
	}
	return nil
}
