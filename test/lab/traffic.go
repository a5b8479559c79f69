package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Traffic returns what each host's link has carried since the host was made, by
// host name, and each zone's link by zone name. It is empty on loopback. One
// reading costs one read of a file: a few a second do not show.
func (l *Lab) Traffic() (Traffic, error) {
	if l.opts.Loopback {
		return Traffic{}, nil
	}
	links, err := l.links.read()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := make(Traffic, len(l.hosts)+len(l.zones))
	for _, h := range l.hosts {
		// The switch receives what the host sends.
		t[h.Name] = links[h.port]
	}
	for _, z := range l.zones {
		t[z.Name] = links[z.near]
	}
	return t, nil
}

// Traffic is what links carried, by the name of the host or zone at their end.
type Traffic map[string]Counter

// Since returns the difference to an earlier reading.
func (t Traffic) Since(before Traffic) Traffic {
	d := make(Traffic, len(t))
	for name, c := range t {
		b := before[name]
		d[name] = Counter{
			Sent: c.Sent - b.Sent, SentFrames: c.SentFrames - b.SentFrames,
			Received: c.Received - b.Received, ReceivedFrames: c.ReceivedFrames - b.ReceivedFrames,
		}
	}
	return d
}

// Counter counts one link in bytes and frames, as the switch saw them: Sent came
// from the host (or out of the zone), Received went there. A frame may be a
// segmentation-offload packet of up to 64 KiB.
type Counter struct {
	Sent, SentFrames, Received, ReceivedFrames int64
}

// headerBytes is Ethernet + IPv4 + TCP with timestamps: what every frame of a TCP
// connection carries beside its payload.
const headerBytes = 14 + 20 + 32

// SentPayload is Sent without the headers of TCP over IPv4. Retransmitted bytes count.
func (c Counter) SentPayload() int64 { return max(0, c.Sent-headerBytes*c.SentFrames) }

// ReceivedPayload is Received without the headers of TCP over IPv4.
func (c Counter) ReceivedPayload() int64 { return max(0, c.Received-headerBytes*c.ReceivedFrames) }

// linkReader reads the counters of all links of one namespace. /proc/net/dev is of
// the namespace of the thread that opens it, whoever reads on.
type linkReader struct{ dev *os.File }

func (r *linkReader) open(netns string) error {
	return inNetns(netns, func() (err error) {
		r.dev, err = os.Open("/proc/thread-self/net/dev")
		return err
	})
}

func (r *linkReader) close() error { return r.dev.Close() }

// read returns the counters by link, seen from the link's own side: what it
// receives is what the other end has sent.
func (r *linkReader) read() (map[string]Counter, error) {
	text, err := io.ReadAll(io.NewSectionReader(r.dev, 0, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read link counters: %w", err)
	}
	return parseLinks(string(text))
}

// parseLinks reads /proc/net/dev: two lines of titles, then "name:" and eight
// numbers for what came in, eight for what went out; bytes and packets come first.
func parseLinks(text string) (map[string]Counter, error) {
	links := make(map[string]Counter)
	for _, line := range strings.Split(text, "\n") {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 16 {
			return nil, fmt.Errorf("read link counters: %d numbers in %q", len(f), line)
		}
		var c Counter
		var errs []error
		for _, n := range []struct {
			to *int64
			at int
		}{{&c.Sent, 0}, {&c.SentFrames, 1}, {&c.Received, 8}, {&c.ReceivedFrames, 9}} {
			v, err := strconv.ParseInt(f[n.at], 10, 64)
			*n.to = v
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("read link counters: %w", err)
		}
		links[strings.TrimSpace(name)] = c
	}
	return links, nil
}
