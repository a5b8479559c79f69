package doctor

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/p2p"
)

const (
	maxSkew   = 30 * time.Second // of this node's clock and a seeder's
	minFree   = 64 << 20         // bytes, below which a disk is full
	slowWrite = 2 * time.Second  // for 1 MiB, kept
)

// swarm is what is behind the mirror.
func (d *doctor) swarm() []Check {
	out := d.checkSeeders()
	out = append(out, d.checkPeers(), d.checkDisk(), d.checkContent())
	if d.st == nil || d.examErr != nil {
		why := "only peerd can tell, and it does not answer"
		if d.st != nil {
			why = d.examErr.Error()
		}
		for _, name := range []string{checkPorts, checkUpstream} {
			out = append(out, Check{Check: name, Result: Skipped, Text: why})
		}
		return out
	}
	seederFine := slices.ContainsFunc(out, func(c Check) bool { return c.Check == checkSeeder && c.Result == OK })
	out = append(out, d.checkPorts()...)
	return append(out, d.checkUpstreams(seederFine))
}

// checkSeeders judges what the seeders said, here and to peerd.
func (d *doctor) checkSeeders() []Check {
	if len(d.seeders) == 0 {
		text := "there is none: no --seeder is given"
		if d.st == nil {
			text += " here, and peerd does not answer"
		}
		return []Check{{Check: checkSeeder, Result: Skipped, Text: text}, {Check: checkClock, Result: Skipped, Text: "there is no seeder to compare with"}}
	}
	var out []Check
	for _, s := range d.seeders {
		c := Check{Check: checkSeeder, Subject: s.url, Result: Fault}
		d.judgeSeeder(&c, s)
		if c.Result == OK {
			c.Text = "answers " + s.took.Round(100*time.Microsecond).String()
		}
		out = append(out, c)
		if s.skewKnown {
			out = append(out, clock(s))
		}
	}
	if !slices.ContainsFunc(out, func(c Check) bool { return c.Check == checkClock }) {
		out = append(out, Check{Check: checkClock, Result: Skipped, Text: "no seeder answers to compare with"})
	}
	return out
}

func (d *doctor) judgeSeeder(c *Check, s *seederView) {
	probe := d.probeOf(s.url)
	key, known := d.fingerprint()
	const goOn = "pulls go on from peers and upstreams meanwhile"
	switch {
	case s.status == http.StatusUnauthorized || s.status == http.StatusForbidden:
		c.Code, c.Text = codeSeederDenied, fmt.Sprintf("answers %d to whoever asks who it is", s.status)
		c.Remedy = "something before the seeder wants a login: let /samara/v1/seeder and /v2/ through to it"
	case s.status >= 500, s.err != nil && (probe == nil || probe.Error != "" || probe.Status >= 500):
		c.Code, c.Text = codeSeederDown, s.problem()
		c.Remedy = "start the seeder, open its port, or mend --seeder; " + goOn
	case s.err == nil && s.in == nil:
		c.Code, c.Text = codeSeederOther, s.problem()
		c.Remedy = "give --seeder the URL of a seeder's registry API"
	case s.in != nil && known && s.in.SwarmKey != key:
		c.Code, c.Text = codeKeyWrong, fmt.Sprintf("the seeder's swarm key has fingerprint %s, peerd's %s", orOpen(s.in.SwarmKey), orOpen(key))
		c.Remedy = "copy the seeder's swarm.key to this host, name it with --swarm-key, and restart peerd"
	case probe != nil && probe.Proved && (probe.Status == http.StatusUnauthorized || probe.Status == http.StatusForbidden):
		c.Code, c.Text = codeSeederDenied, fmt.Sprintf("answers peerd's requests with %d, though it shows that it has the swarm key", probe.Status)
		c.Remedy = "give the seeder a rule for `peers` (docs/security.md#peers); where there is one, compare the clocks"
	case probe != nil && probe.Error != "":
		c.Code, c.Text = codeSeederDown, "answers here, but not to peerd: "+probe.Error
		c.Remedy = "let peerd reach it: its user, its network namespace and HTTPS_PROXY differ; " + goOn
	default:
		c.Result = OK
		if w := d.warned("seeder-refused"); w != nil && s.in != nil && strings.Contains(w.Text, s.url) {
			c.Result, c.Code, c.Text, c.Remedy = Fault, codeSeederOther, w.Text, w.Remedy
		}
	}
}

func orOpen(fingerprint string) string {
	if fingerprint == "" {
		return "none: an open swarm"
	}
	return fingerprint
}

// probeOf is what peerd found of a seeder; nil where it was not asked.
func (d *doctor) probeOf(url string) *status.Probe {
	if d.exam == nil {
		return nil
	}
	for i, p := range d.exam.Seeders {
		if strings.TrimSuffix(p.URL, "/") == strings.TrimSuffix(url, "/") {
			return &d.exam.Seeders[i]
		}
	}
	return nil
}

// warned is a warning of peerd's; nil where there is none of this code.
func (d *doctor) warned(code string) *status.Warning {
	if d.st == nil {
		return nil
	}
	for i, w := range d.st.Warnings {
		if w.Code == code {
			return &d.st.Warnings[i]
		}
	}
	return nil
}

// fingerprint is of peerd's swarm key, "" for an open swarm; where peerd does not
// answer, of the file that it would read.
func (d *doctor) fingerprint() (key string, known bool) {
	if d.st != nil {
		return d.st.Swarm.KeyFingerprint, true
	}
	if d.SwarmKey == "" {
		return "", false // perhaps peerd was told, and we were not
	}
	psk, err := p2p.LoadSwarmKey(d.SwarmKey)
	if err != nil {
		return "", false
	}
	return p2p.Fingerprint(psk), true
}

// clock compares with a seeder's.
func clock(s *seederView) Check {
	c := Check{Check: checkClock, Subject: s.url, Result: OK, Text: "agrees with the seeder's"}
	skew := s.skew.Round(time.Second)
	if skew.Abs() <= maxSkew {
		return c
	}
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	c.Result, c.Code = Fault, codeClock
	c.Text = fmt.Sprintf("this node's clock is %s %s the seeder's: its tokens and certificates may not count", skew.Abs(), way)
	c.Remedy = "set the clocks by NTP, on this node (`chronyc tracking`, `timedatectl`) and on the seeder"
	return c
}

func (d *doctor) checkPeers() Check {
	c := Check{Check: checkPeers}
	if d.st == nil {
		c.Result, c.Text = Skipped, "only peerd can tell, and it does not answer"
		return c
	}
	s := d.st.Swarm
	c.Text = fmt.Sprintf("%d neighbours, %d in the DHT", s.Neighbours, s.DHTPeers)
	switch {
	case s.Neighbours == 0:
		c.Result, c.Code = Fault, codeNoPeers
		c.Text += ": every blob comes from the seeder's registry or the upstream"
		c.Remedy = "open TCP 4001 and 4002 between nodes and seeder, compare the swarm keys' fingerprints (`peerd status`, `seeder status`), or give --bootstrap"
		if w := d.warned("seeder-not-connected"); w != nil {
			c.Text, c.Remedy = w.Text, w.Remedy
		}
	case s.DHTPeers == 0:
		c.Result, c.Code = Fault, codeDHTAlone
		c.Text += ": without its seeder this node finds nobody"
		c.Remedy = "have seeder and nodes run the same release (`peerd version`); where they do, restart peerd, and look whether its neighbours are overloaded"
	default:
		c.Result = OK
	}
	return c
}

// checkPorts judges what neighbours said that were asked to connect back.
func (d *doctor) checkPorts() []Check {
	var out []Check
	for _, kind := range []struct {
		flag   string
		pieces bool
	}{{"--p2p-listen", false}, {"--pieces-listen", true}} {
		c := Check{Check: checkPorts, Subject: kind.flag}
		open, asked := 0, 0
		var closed *status.Reach // the first
		for _, r := range d.exam.Reached {
			found, tried := false, false
			for _, p := range r.Ports {
				if p.Pieces != kind.pieces {
					continue
				}
				tried = true
				found = found || p.Error == ""
				if p.Error != "" && closed == nil {
					closed = &p
				}
			}
			if tried {
				asked++
			}
			if found {
				open++
			}
		}
		switch {
		case asked == 0:
			c.Result, c.Text = Skipped, "no neighbour was there, or able, to connect back"
		case open == 0:
			_, port, err := net.SplitHostPort(closed.Addr)
			if err != nil {
				port = "of " + closed.Addr
			}
			c.Result, c.Code = Fault, codePortClosed
			c.Text = fmt.Sprintf("neighbours cannot connect to it (%d asked): %s: %s", asked, closed.Addr, closed.Error)
			c.Remedy = fmt.Sprintf("open TCP port %s of this node to the other nodes and the seeder; where addresses are translated, give --advertise", port)
		default:
			c.Result, c.Text = OK, fmt.Sprintf("%d of %d neighbours connect to it", open, asked)
		}
		out = append(out, c)
	}
	return out
}

// checkUpstreams judges the registries behind; what a seeder fetches for this node
// need not be within its reach.
func (d *doctor) checkUpstreams(seederFine bool) Check {
	c := Check{Check: checkUpstream}
	var failed []string
	var first status.Probe
	for _, p := range d.exam.Upstreams {
		if p.Error == "" && p.Status < 500 {
			continue
		}
		if failed = append(failed, p.Name); len(failed) == 1 {
			first = p
		}
	}
	switch {
	case len(d.exam.Upstreams) == 0:
		c.Result, c.Text = Skipped, "peerd asks none itself"
	case len(failed) == 0:
		c.Result, c.Text = OK, fmt.Sprintf("%d answer", len(d.exam.Upstreams))
	default:
		why := first.Error
		if why == "" {
			why = fmt.Sprintf("answers %d", first.Status)
		}
		c.Subject = strings.Join(failed, ", ")
		c.Result, c.Code = Fault, codeUpstreamDown
		c.Text = fmt.Sprintf("peerd cannot reach %s (%s)", first.URL, why)
		c.Remedy = "look at DNS, firewall and HTTPS_PROXY of peerd, and at the registry itself"
		if seederFine {
			c.Result = Warning
			c.Text += "; the seeder fetches for it, but were that away pulls of what no peer holds would fail"
		}
	}
	return c
}

func (d *doctor) checkDisk() Check {
	c := Check{Check: checkDisk}
	if d.exam == nil || d.exam.Disk.Path == "" {
		c.Result, c.Text = Skipped, "peerd does not answer, and --data is not given"
		return c
	}
	f := d.exam.Disk
	took := time.Duration(f.WriteMillis * float64(time.Millisecond)).Round(100 * time.Microsecond)
	c.Subject, c.Result = f.Path, Fault
	switch {
	case f.Full || f.Error == "" && f.Free < minFree:
		c.Code, c.Text = codeDiskFull, fmt.Sprintf("%d MiB free of %d: what is pulled is not kept, and not given to peers", f.Free>>20, f.Total>>20)
		c.Remedy = "make room, give --quota so that peerd does, or give --data on another disk"
	case f.Hung || f.Error == "" && took > slowWrite:
		c.Code, c.Text = codeDiskSlow, fmt.Sprintf("1 MiB took %s to be kept", took)
		if f.Hung {
			c.Text = f.Error
		}
		c.Remedy = "look at the disk (`iostat -x`, `dmesg`, its I/O limits), or give --data on another one"
	case f.Error != "" && d.st == nil:
		c.Result, c.Text = Skipped, "peerd does not answer, and from here: "+f.Error
	case f.Error != "":
		c.Code, c.Text = codeDiskFails, f.Error
		c.Remedy = "see to it that peerd's user can write there, and look at the disk (`dmesg`)"
	default:
		c.Result, c.Text = OK, fmt.Sprintf("%d MiB free, 1 MiB kept in %s", f.Free>>20, took)
	}
	return c
}

// checkContent looks for bytes that did not have their digest, since peerd started.
func (d *doctor) checkContent() Check {
	c := Check{Check: checkContent}
	if d.st == nil {
		c.Result, c.Text = Skipped, "only peerd can tell, and it does not answer"
		return c
	}
	var found, remedies []string
	if n := len(d.st.Liars); n > 0 {
		l := d.st.Liars[0]
		found = append(found, fmt.Sprintf("%d peers sent wrong bytes, the first %s (%s)", n, l.ID, l.Reason))
		remedies = append(remedies, "look at that peer's memory and disk: it is asked again in an hour")
	}
	if n := len(d.st.Scrub.Damaged); n > 0 {
		found = append(found, fmt.Sprintf("%d blobs on the disk are damaged, the first %s", n, d.st.Scrub.Damaged[0].Digest))
		remedies = append(remedies, "look at this node's disk (`dmesg`, smartctl); they are fetched again")
	}
	for _, b := range d.st.Blobs {
		if b.Corrupt {
			found = append(found, fmt.Sprintf("the bytes on offer for %s of %s are others", b.Digest, b.Source))
			remedies = append(remedies, "look at the upstream, and at proxies on the way to it")
			break
		}
	}
	for _, u := range d.st.Upstreams {
		if u.Corrupt > 0 {
			found = append(found, fmt.Sprintf("%s answered %d times with what does not have its digest", u.Name, u.Corrupt))
			remedies = append(remedies, "look at the upstream, and at proxies on the way to it")
			break
		}
	}
	if n := d.st.Clients.Mismatches; n > 0 && len(found) == 0 {
		found = append(found, fmt.Sprintf("%d requests were refused since the bytes on offer have another digest", n))
		remedies = append(remedies, "peerd's log names blob and source; look at the upstream, and at proxies on the way to it")
	}
	if len(found) == 0 {
		c.Result, c.Text = OK, "all bytes had their digests since peerd started"
		return c
	}
	c.Result, c.Code = Fault, codeMismatch
	c.Text = strings.Join(found, "; ") + ". None of it was given to a client"
	c.Remedy = strings.Join(slices.Compact(remedies), "; ")
	return c
}
