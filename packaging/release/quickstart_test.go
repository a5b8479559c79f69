package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	distribution "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// typed is a line of a page with the prompt before it.
type typed struct{ prompt, command string }

var prompted = regexp.MustCompile(`^([a-z]*[#$]) (.*)$`)

// commandsOf are the lines with prompts below a heading of the second level.
func commandsOf(page, heading string) (list []typed) {
	_, section, _ := strings.Cut(page, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if m := prompted.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			list = append(list, typed{m[1], m[2]})
		}
	}
	return list
}

// TestQuickstart holds the page to its size: at most 200 words, code and all, and
// at most five commands each way.
func TestQuickstart(t *testing.T) {
	page := read(t, "../../docs/quickstart.md")
	if n := len(strings.Fields(page)); n > 200 {
		t.Errorf("it has %d words", n)
	}
	for _, heading := range []string{"Docker", "Kubernetes"} {
		if n := len(commandsOf(page, heading)); n == 0 || n > 5 {
			t.Errorf("%s takes %d commands", heading, n)
		}
	}
}

// checkQuickstart types what the page has for Docker, word by word, on machines that
// have Docker and nothing of ours. The internet is a registry called
// registry-1.docker.io; ssh is a stand-in that runs its words on the seeder.
func checkQuickstart(t *testing.T, r release) {
	for _, program := range []string{"dockerd", "apt", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	seeder := boot(t)
	hosts := []*machine{boot(t), boot(t)}
	seeder.run("ip link add br0 type bridge; ip addr add 10.77.0.1/24 dev br0; ip addr add 10.77.0.9/24 dev br0; ip link set br0 up")
	hub := newHub(t, seeder)
	for i, m := range append([]*machine{seeder}, hosts...) {
		m.run("printf '10.77.0.1 SEEDER\\n10.77.0.9 registry-1.docker.io\\n' >>/etc/hosts")
		m.append("/etc/ssl/certs/ca-certificates.crt", hub.authority)
		if i == 0 {
			continue
		}
		port := fmt.Sprint("port", i)
		if out, err := exec.Command("ip", "link", "add", port, "netns", seeder.pid, "type", "veth", "peer", "name", "eth0", "netns", m.pid).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		seeder.run("ip link set " + port + " master br0 up")
		m.run(fmt.Sprintf("ip addr add 10.77.0.%d/24 dev eth0; ip link set eth0 up; ip route add default via 10.77.0.1", 1+i))
		m.run("systemctl start docker; docker info >/dev/null")
		m.append("/usr/local/bin/ssh", []byte("#!/bin/sh\nshift\nexec curl -fsS --data \"$*\" http://SEEDER:22/\n"))
		m.run("chmod 755 /usr/local/bin/ssh")
	}
	seeder.copyIn(r.artefact("seeder", r.arches[0], "deb"), "/root/samara-seeder_1_amd64.deb")
	for _, m := range hosts {
		m.copyIn(r.artefact("peerd", r.arches[0], "deb"), "/root/samara-peerd_1_amd64.deb")
	}

	const inRoot = "cd /root; export PATH=/usr/local/bin:$PATH; "
	page := read(t, "docs/quickstart.md")
	for _, c := range commandsOf(page, "Docker") {
		if c.prompt == "seeder#" {
			seeder.run(inRoot + c.command)
		}
	}
	for i, m := range hosts {
		for _, c := range commandsOf(page, "Docker") {
			if c.prompt != "host#" {
				continue
			}
			out := m.run(inRoot + c.command)
			t.Logf("host %d: %s\n%s", i+1, c.command, out)
		}
		hub.CloseClientConnections()
	}
	var status struct {
		Bytes struct{ FromPeers, FromSeeder, FromUpstream int64 }
	}
	if err := json.Unmarshal([]byte(hosts[1].run("peerd status --json")), &status); err != nil {
		t.Fatal(err)
	}
	if b := status.Bytes; b.FromPeers == 0 || b.FromUpstream != 0 {
		t.Errorf("the second host has its bytes from %+v", b)
	}
	for _, m := range hosts {
		m.run("apt remove --yes samara-peerd")
		if out, err := m.try("cat /etc/docker/daemon.json"); err == nil {
			t.Errorf("docker's settings stay: %s", out)
		}
	}
}

// append adds to a file of the machine, or makes it.
func (m *machine) append(path string, text []byte) {
	m.t.Helper()
	f, err := os.OpenFile(filepath.Join("/proc", m.pid, "root", path), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(text)
		f.Close()
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// listen listens in the machine's network.
func (m *machine) listen(addr string) net.Listener {
	m.t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/proc/" + m.pid + "/ns/net")
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", addr)
		}
		done <- result{l, err}
	}()
	got := <-done
	if got.err != nil {
		m.t.Fatal(got.err)
	}
	return got.l
}

// hub is docker.io, as far as these machines know, with an image.
type hub struct {
	*httptest.Server
	authority []byte // PEM
}

func newHub(t *testing.T, m *machine) *hub {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	names := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"registry-1.docker.io"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, names, names, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	handler := distribution.New(distribution.Logger(zap.NewStdLog(zap.NewNop())))
	plain := httptest.NewServer(handler)
	defer plain.Close()
	im, err := random.Image(4<<20, 3)
	if err == nil {
		err = crane.Push(im, strings.TrimPrefix(plain.URL, "http://")+"/library/nginx:latest", crane.Insecure)
	}
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{httptest.NewUnstartedServer(handler), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	h.Listener.Close()
	h.Listener = m.listen("10.77.0.9:443")
	h.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	h.StartTLS()
	t.Cleanup(h.Close)

	shell := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		script, _ := io.ReadAll(r.Body)
		out, err := m.try(string(script))
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.Copy(w, bytes.NewReader([]byte(out)))
	}))
	shell.Listener.Close()
	shell.Listener = m.listen("10.77.0.1:22")
	shell.Start()
	t.Cleanup(shell.Close)
	return h
}
