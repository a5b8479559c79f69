package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/test/lab"
)

// What an operator is told.
var (
	messages = Scenario{
		Name: "messages", Doc: "bad configuration, taken port, unreadable data, wrong key, wrong seeder",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.messages(ctx) },
	}
	diskFull = Scenario{
		Name: "disk-full", Doc: "a peerd's and a seeder's disk are too small for the image",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.diskFull(ctx) },
	}
)

// mishap is a start that must fail with a message.
type mishap struct {
	what  string
	path  string
	args  []string
	uid   uint32 // 0: as we are
	words []string
}

func (e *Env) messages(ctx context.Context) error {
	c, err := e.newCluster(ctx, clusterSpec{hosts: 1, layers: []int64{2 * mib, 200 * kib}})
	if err != nil {
		return err
	}
	h, err := c.lab.NewHost("odd", 0)
	if err != nil {
		return err
	}
	taken, err := h.Listen(7000)
	if err != nil {
		return err
	}
	defer taken.Close()
	dir := h.Dir()
	paths := map[string]string{"bad.yaml": "listen: 127.0.0.1:5050\nlistenn: 127.0.0.1:5051\n", "file": "not a directory\n", "bad.key": "hello\n"}
	for name, text := range paths {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	locked := filepath.Join(dir, "locked")
	if err := os.Mkdir(locked, 0o700); err != nil {
		return err
	}
	peerd := func(more ...string) []string {
		args := []string{"serve", "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:7050",
			"--p2p-listen", "/ip4/" + h.IP + "/tcp/7001", "--pieces-listen", h.IP + ":7002", "--admin-listen", "127.0.0.1:7095",
			"--seeder", c.seeder.URL, "--swarm-key", c.seeder.SwarmKey}
		return append(args, more...)
	}
	seeder := func(more ...string) []string {
		args := []string{"serve", "--data", filepath.Join(dir, "sdata"), "--listen", h.IP + ":7000",
			"--p2p-listen", "/ip4/" + h.IP + "/tcp/7001", "--pieces-listen", h.IP + ":7002", "--admin-listen", "127.0.0.1:7095",
			"--upstream", upstreamName + "=" + c.upURL}
		return append(args, more...)
	}
	noKey := []string{"serve", "--data", filepath.Join(dir, "data"), "--seeder", c.seeder.URL}
	for _, m := range []mishap{
		{what: "peerd: unknown key in the configuration file", path: e.Bin.Peerd, args: peerd("--config", filepath.Join(dir, "bad.yaml")), words: []string{"listenn", "bad.yaml"}},
		{what: "peerd: bad value of a flag", path: e.Bin.Peerd, args: peerd("--quota", "many"), words: []string{"quota", "many"}},
		{what: "peerd: mirror port taken", path: e.Bin.Peerd, args: peerd("--listen", "127.0.0.1:7000"), words: []string{"7000", "taken"}},
		{what: "peerd: pieces port taken", path: e.Bin.Peerd, args: peerd("--pieces-listen", h.IP+":7000"), words: []string{"7000", "taken"}},
		{what: "peerd: libp2p port taken", path: e.Bin.Peerd, args: peerd("--p2p-listen", "/ip4/"+h.IP+"/tcp/7000"), words: []string{"7000", "taken"}},
		{what: "peerd: data path is a file", path: e.Bin.Peerd, args: peerd("--data", filepath.Join(dir, "file")), words: []string{filepath.Join(dir, "file")}},
		{what: "peerd: data directory of somebody else", path: e.Bin.Peerd, args: peerd("--data", locked), uid: 65534, words: []string{locked, "permission"}},
		{what: "peerd: neither key nor --open-swarm", path: e.Bin.Peerd, args: noKey, words: []string{"swarm-key", "open-swarm"}},
		{what: "peerd: swarm key file missing", path: e.Bin.Peerd, args: peerd("--swarm-key", filepath.Join(dir, "none.key")), words: []string{"none.key"}},
		{what: "peerd: swarm key file is none", path: e.Bin.Peerd, args: peerd("--swarm-key", filepath.Join(dir, "bad.key")), words: []string{"bad.key"}},
		{what: "peerd: seeder URL is none", path: e.Bin.Peerd, args: peerd("--seeder", "seeder.example.org:5000:1"), words: []string{"seeder.example.org:5000:1"}},
		{what: "seeder: port taken", path: e.Bin.Seeder, args: seeder(), words: []string{"7000", "taken"}},
		{what: "seeder: data path is a file", path: e.Bin.Seeder, args: seeder("--data", filepath.Join(dir, "file"), "--listen", h.IP+":7003"), words: []string{filepath.Join(dir, "file")}},
		{what: "seeder: upstream without a URL", path: e.Bin.Seeder, args: seeder("--upstream", "docker.io"), words: []string{"docker.io"}},
	} {
		e.mustFail(ctx, h, m)
	}
	if err := e.wrongKey(ctx, c); err != nil {
		return err
	}
	return e.wrongSeeder(ctx, c)
}

// mustFail runs a program that has to end by itself, not with status 0, and to
// name all the words in what it prints.
func (e *Env) mustFail(ctx context.Context, h *lab.Host, m mishap) {
	const target = "exit status not 0; says what, where and what to do"
	p, err := h.Start(ctx, lab.Command{Name: strings.Map(plain, m.what), Path: m.path, Args: m.args, UID: m.uid})
	if err != nil {
		e.row(m.what, target, false, "%v", err)
		return
	}
	e.logs = append(e.logs, p)
	short, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	code, err := p.Wait(short)
	if err != nil {
		p.Kill()
		e.row(m.what, target, false, "still running after 15 s: %s", lastLine(p))
		return
	}
	text := p.Log()
	ok := code > 0 && !strings.Contains(text, "panic:")
	for _, w := range m.words {
		ok = ok && strings.Contains(strings.ToLower(text), strings.ToLower(w))
	}
	e.row(m.what, target, ok, "status %d: %s", code, lastLine(p))
}

func plain(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}

// lastLine is what the program said in the end: its plain lines, without those
// that are JSON for a log collector.
func lastLine(p *lab.Process) string {
	var words []string
	for _, line := range strings.Split(p.Tail(60), "\n") {
		if strings.HasPrefix(line, "panic:") {
			return line
		}
		if !strings.HasPrefix(line, "{") {
			words = append(words, strings.Fields(line)...)
		}
	}
	text := strings.Join(words, " ")
	if len(text) > 600 {
		text = "..." + text[len(text)-600:]
	}
	return text
}

// wrongKey: the daemon goes on (its mirror still helps), but says so.
func (e *Env) wrongKey(ctx context.Context, c *cluster) error {
	h, err := c.lab.NewHost("stranger", 0)
	if err != nil {
		return err
	}
	key := filepath.Join(h.Dir(), "other.key")
	text := "/key/swarm/psk/1.0.0/\n/base16/\n" + strings.Repeat("5a", 32) + "\n"
	if err := os.WriteFile(key, []byte(text), 0o600); err != nil {
		return err
	}
	p, err := lab.StartPeerd(ctx, e.Bin, h, lab.PeerdConfig{Seeder: c.seeder.URL, SwarmKey: key, ReadyPath: "/healthz"})
	if err != nil {
		// To refuse to go on is as good, if it says why.
		ok := errors.Is(err, lab.ErrExited) && strings.Contains(err.Error(), "swarm key")
		e.row("peerd with another network's key", "says that the key is wrong", ok, "%.500v", err)
		return nil
	}
	e.logs = append(e.logs, p.Process)
	st, err := e.waitWarning(ctx, p, "key")
	select {
	case <-p.Done(): // it was alive for a moment before it refused to go on
		e.row("peerd with another network's key", "says that the key is wrong", logHas(p.Process, "wrong swarm key"), "exit status %d", p.ExitCode())
		return nil
	default:
	}
	e.row("peerd with another network's key", "says that the key is wrong, in log and status", err == nil && logHas(p.Process, "key"),
		"%s%v", warnings(st), errText(err))
	e.row("it is admitted to nothing", "no neighbours", st != nil && st.Swarm.Neighbours == 0, "%d neighbours", neighbours(st))
	pl := c.pull(ctx, tag, c.httpPullers([]*lab.Peerd{p}, true))
	e.expect("a client with that mirror still gets its image", "yes", pl.wait(nil))
	return nil
}

// wrongSeeder: nobody answers at the URL.
func (e *Env) wrongSeeder(ctx context.Context, c *cluster) error {
	h, err := c.lab.NewHost("lost", 0)
	if err != nil {
		return err
	}
	url := "http://" + c.upHost.IP + ":9"
	p, err := lab.StartPeerd(ctx, e.Bin, h, lab.PeerdConfig{Seeder: url, SwarmKey: c.seeder.SwarmKey, ReadyPath: "/healthz"})
	if err != nil {
		e.row("peerd with a seeder URL where nobody is", "goes on, and says so", false, "%.500v", err)
		return nil
	}
	e.logs = append(e.logs, p.Process)
	st, err := e.waitWarning(ctx, p, "seeder")
	e.row("peerd with a seeder URL where nobody is", "goes on, and names the URL in log and status",
		err == nil && logHas(p.Process, url), "%s%v", warnings(st), errText(err))
	start := time.Now()
	pl := c.pull(ctx, tag, c.httpPullers([]*lab.Peerd{p}, true))
	e.expect("a client with that mirror still gets its image, from the upstream", "yes", pl.wait(nil))
	took := time.Since(start)
	e.row("and is not kept waiting", "<= 10 s", took <= 10*time.Second, "%.1f s", took.Seconds())
	return nil
}

// waitWarning waits up to 20 s for a warning whose text has the word.
func (e *Env) waitWarning(ctx context.Context, p *lab.Peerd, word string) (st *status.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = lab.Eventually(ctx, func() error {
		now, err := p.Status(ctx)
		if err != nil {
			return err
		}
		st = now
		for _, w := range now.Warnings {
			if strings.Contains(strings.ToLower(w.Text+w.Code), word) {
				return nil
			}
		}
		return fmt.Errorf("status has no warning about the %s", word)
	})
	return st, err
}

func warnings(st *status.Status) string {
	if st == nil {
		return ""
	}
	var all []string
	for _, w := range st.Warnings {
		all = append(all, w.Code+": "+w.Text+" ("+w.Remedy+")")
	}
	return strings.Join(all, "; ")
}

func neighbours(st *status.Status) int {
	if st == nil {
		return -1
	}
	return st.Swarm.Neighbours
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return " ERROR " + err.Error()
}

func (e *Env) diskFull(ctx context.Context) error {
	layers := []int64{12 * mib, 3 * mib, 200 * kib}
	c, err := e.newCluster(ctx, clusterSpec{hosts: 1, layers: layers})
	if err != nil {
		return err
	}
	small, err := c.lab.MountTmpfs("small-disk", 8*mib)
	if err != nil {
		return err
	}
	h, err := c.lab.NewHost("full", 0)
	if err != nil {
		return err
	}
	p, err := c.addPeerOn(ctx, h, lab.PeerdConfig{Data: small})
	if err != nil {
		return err
	}
	pl := c.pull(ctx, tag, c.httpPullers([]*lab.Peerd{p}, true))
	e.expect("a peerd whose disk is full: its client finishes", "yes", pl.wait(nil))
	var fs syscall.Statfs_t
	_ = syscall.Statfs(small, &fs)
	e.row("its log names the path and the free bytes", "yes", logHas(p.Process, small) && (logHas(p.Process, "full") || logHas(p.Process, "space")),
		"%d bytes free: %s", fs.Bavail*uint64(fs.Bsize), grep(p.Process, "full", "space"))
	e.row("it keeps running", "yes", p.Running(), "%v", p.Running())

	// The same on a seeder.
	c2, err := e.newCluster(ctx, clusterSpec{hosts: 1, layers: layers, seederData: mustTmpfs(c.lab, "small-seeder", 8*mib)})
	if err != nil {
		return err
	}
	pl = c2.pull(ctx, tag, c2.httpPullers(c2.peers, true))
	e.expect("a seeder whose disk is full: clients finish", "yes", pl.wait(nil))
	e.row("the seeder's log says so", "yes", logHas(c2.seeder.Process, "full") || logHas(c2.seeder.Process, "space"), "%s", grep(c2.seeder.Process, "full", "space"))
	e.row("the seeder keeps running", "yes", c2.seeder.Running(), "%v", c2.seeder.Running())
	return nil
}

// mustTmpfs returns "" (a directory of the host's own) where no mount can be made;
// the rows that follow then fail by themselves.
func mustTmpfs(l *lab.Lab, name string, size int64) string {
	dir, err := l.MountTmpfs(name, size)
	if err != nil {
		return ""
	}
	return dir
}

// grep is the first log line that has one of the words, cut to a length that fits
// a table.
func grep(p *lab.Process, words ...string) string {
	for _, line := range strings.Split(p.Log(), "\n") {
		for _, w := range words {
			if strings.Contains(strings.ToLower(line), w) {
				return fmt.Sprintf("%.400s", line)
			}
		}
	}
	return "nothing in the log"
}
