package cli

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/samara-p2p/samara/internal/status"
)

// barWidth is the number of cells of a progress bar.
const barWidth = 24

// Render writes a status document for a person. It is plain text for any
// terminal; errors of w are w's owner's to notice.
func Render(w io.Writer, s *status.Status) {
	renderHead(w, s)
	renderWarnings(w, s.Warnings)
	renderBlobs(w, s)
	renderPeers(w, s.Peers)
	renderUpstreams(w, s.Upstreams)
	renderLiars(w, s.Liars)
}

func renderHead(w io.Writer, s *status.Status) {
	head := []string{s.Daemon + " " + s.Version, s.PeerID}
	if s.Zone != "" {
		head = append(head, "zone "+s.Zone)
	}
	head = append(head, "up "+span(time.Duration(s.UptimeSeconds)*time.Second))
	fmt.Fprintln(w, clean(strings.Join(head, " | ")))
	t := newTable()
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	if s.Listen != "" {
		line("listen", "%s", s.Listen)
	}
	if len(s.Addrs)+len(s.PiecesAddrs) > 0 {
		line("peers at", "%s", strings.Join(append(append([]string{}, s.Addrs...), s.PiecesAddrs...), " "))
	}
	line("swarm", "%s, %s, %d in the DHT", swarmKind(s.Swarm), count(s.Swarm.Neighbours, "neighbour"), s.Swarm.DHTPeers)
	for _, d := range s.Seeders {
		state := "reachable"
		if !d.Reachable {
			state = "NOT reachable"
			if d.LastError != "" {
				state += ": " + d.LastError
			}
		}
		line("seeder", "%s", strings.Join(nonEmpty(d.URL, d.ID, state), " "))
	}
	quota := "no quota"
	if s.Store.Quota > 0 {
		quota = fmt.Sprintf("%d%% of %s", percent(s.Store.Used, s.Store.Quota), size(s.Store.Quota))
	}
	line("store", "%s (%s), %s, %d partial", size(s.Store.Used), quota, count(s.Store.Complete, "blob"), s.Store.Partial)
	for _, p := range s.Store.Prefixes {
		line("quota", "%s: %s (%d%% of %s)", p.Prefix, size(p.Used), percent(p.Used, p.Quota), size(p.Quota))
	}
	if text := scrubText(s); text != "" {
		line("scrub", "%s", text)
	}
	if o := s.ObjectStore; o != nil {
		line("object store", "%s", objectStoreText(o))
	}
	b := s.Bytes
	in := b.FromPeers + b.FromSeeder + b.FromUpstream + b.FromObjectStore
	text := fmt.Sprintf("peers %s, seeder %s, upstream %s", part(b.FromPeers, in), part(b.FromSeeder, in), part(b.FromUpstream, in))
	if b.FromObjectStore > 0 {
		text += ", object store " + part(b.FromObjectStore, in)
	}
	line("bytes in", "%s", text)
	line("bytes out", "to peers %s, to clients %s", size(b.ToPeers), size(b.ToClients))
	last := "none yet"
	if !s.Clients.LastRequest.IsZero() && !s.StartedAt.IsZero() {
		now := s.StartedAt.Add(time.Duration(s.UptimeSeconds) * time.Second)
		last = "last " + span(max(0, now.Sub(s.Clients.LastRequest))) + " ago"
	}
	line("clients", "%s, %s", count(int(s.Clients.Requests), "request"), last)
	t.writeTo(w)
}

// scrubText says what the check of the disk does, or did last.
func scrubText(s *status.Status) string {
	x := s.Scrub
	now := s.StartedAt.Add(time.Duration(s.UptimeSeconds) * time.Second)
	text := ""
	switch {
	case x.Began.IsZero():
		return ""
	case x.Running:
		text = fmt.Sprintf("under way, %s of %s", size(x.Bytes), size(x.Total))
	case x.Ended.Equal(x.Began):
		text = "none yet"
	case x.Error != "":
		text = "stopped at " + size(x.Bytes)
	default:
		text = fmt.Sprintf("%s ago, %s in %s", span(max(0, now.Sub(x.Ended))), size(x.Bytes), count(int(x.Blobs), "blob"))
	}
	if x.Found > 0 {
		text += fmt.Sprintf(", %d were damaged", x.Found)
	}
	if n := len(x.Damaged); n > 0 {
		text += fmt.Sprintf(", %d damaged now", n)
	}
	if !x.Next.IsZero() {
		text += ", next in " + span(max(0, x.Next.Sub(now)))
	}
	return text
}

func renderWarnings(w io.Writer, list []status.Warning) {
	for _, x := range list {
		text := "WARNING " + x.Text
		if x.Remedy != "" {
			text += "; " + x.Remedy
		}
		fmt.Fprintln(w, clean(text))
	}
}

func renderBlobs(w io.Writer, s *status.Status) {
	if len(s.Blobs) == 0 {
		return
	}
	fmt.Fprintf(w, "\nBLOBS\n")
	t := newTable()
	for _, b := range s.Blobs {
		of := size(b.Have)
		if b.Size > 0 {
			of += " of " + size(b.Size)
		}
		src := b.BytesBySource
		sum := src.Peers + src.Seeder + src.Upstream + src.ObjectStore
		var from string
		if sum > 0 {
			from = fmt.Sprintf("peers %s seeder %s upstream %s", share(src.Peers, sum), share(src.Seeder, sum), share(src.Upstream, sum))
		}
		if src.ObjectStore > 0 {
			from += " object store " + share(src.ObjectStore, sum)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", clean(shortDigest(b.Digest)), bar(b), of, blobNote(b), from, clean(strings.Join(nonEmpty(b.Source, b.Error), ": ")))
	}
	t.writeTo(w)
}

// blobNote is what matters most in the blob's state.
func blobNote(b status.Blob) string {
	switch b.State {
	case status.Failed:
		return "FAILED"
	case status.Complete:
		if !b.EndedAt.IsZero() && !b.StartedAt.IsZero() {
			return "complete in " + span(b.EndedAt.Sub(b.StartedAt))
		}
		return "complete"
	}
	note := size(b.RateBytesPerSec) + "/s"
	if b.RateBytesPerSec > 0 && b.Size > b.Have {
		note += ", " + span(time.Duration(float64(b.Size-b.Have)/float64(b.RateBytesPerSec)*float64(time.Second))) + " to go"
	}
	note += ", " + count(b.Peers, "peer")
	if b.Readers > 0 {
		note += ", " + count(b.Readers, "reader")
	}
	return note
}

func bar(b status.Blob) string {
	p := percent(b.Have, b.Size)
	if b.State == status.Complete {
		p = 100
	}
	full := p * barWidth / 100
	return fmt.Sprintf("[%s%s] %3d%%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), p)
}

func renderPeers(w io.Writer, peers []status.Peer) {
	if len(peers) == 0 {
		return
	}
	fmt.Fprintf(w, "\nPEERS\n")
	t := newTable()
	fmt.Fprintln(t, "id\tzone\taddress\trtt\tfrom it\tto it\t")
	for _, p := range peers {
		rtt := "-"
		if p.RTTMillis > 0 {
			rtt = fmt.Sprintf("%.1f ms", p.RTTMillis)
		}
		var notes []string
		if p.Seeder {
			notes = append(notes, "seeder")
		}
		if p.BadPieces > 0 {
			notes = append(notes, count(p.BadPieces, "bad piece"))
		}
		if p.Banned {
			notes = append(notes, "BANNED "+p.BannedReason)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", clean(shortID(p.ID)), clean(orDash(p.Zone)), clean(orDash(p.Addr)), rtt, size(p.BytesFrom), size(p.BytesTo), clean(strings.Join(notes, ", ")))
	}
	t.writeTo(w)
}

func renderUpstreams(w io.Writer, list []status.Upstream) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\nUPSTREAMS\n")
	t := newTable()
	fmt.Fprintln(t, "name\turl\trequests\tbytes\terrors\t")
	for _, u := range list {
		var notes []string
		if u.Default {
			notes = append(notes, "default")
		}
		if u.Breaker != "" && u.Breaker != "closed" {
			notes = append(notes, "NOT ASKED, it fails; next probe at "+u.ProbeAt.Local().Format("15:04:05"))
		}
		if u.RateLimit > 0 {
			notes = append(notes, fmt.Sprintf("%d of %d requests left", u.RateLeft, u.RateLimit))
		}
		if !u.BlockedUntil.IsZero() {
			notes = append(notes, "BLOCKED until "+u.BlockedUntil.Local().Format("15:04:05"))
		}
		if u.LastError != "" {
			notes = append(notes, "last error: "+u.LastError)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%s\n", clean(u.Name), clean(u.URL), u.Requests, size(u.Bytes), u.Errors, clean(strings.Join(notes, ", ")))
	}
	t.writeTo(w)
}

func renderLiars(w io.Writer, list []status.Liar) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\nLIARS (sent bytes that did not match their hash)\n")
	t := newTable()
	for _, l := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", clean(l.ID), clean(orDash(l.Addr)), count(l.Bad, "bad piece"), clean(orDash(shortDigest(l.Digest))), clean(l.Reason))
	}
	t.writeTo(w)
}

// table aligns columns and leaves no blanks at the ends of lines.
type table struct {
	*tabwriter.Writer
	buf bytes.Buffer
}

func newTable() *table {
	t := &table{}
	t.Writer = tabwriter.NewWriter(&t.buf, 0, 8, 2, ' ', 0)
	return t
}

func (t *table) writeTo(w io.Writer) {
	_ = t.Flush() // into memory
	for line := range strings.Lines(t.buf.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

// clean keeps what other hosts sent from driving the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

func swarmKind(s status.Swarm) string {
	if s.Open {
		return "OPEN (no key)"
	}
	if s.KeyFingerprint == "" {
		return "private"
	}
	return "private, key " + s.KeyFingerprint
}

func shortDigest(d string) string {
	alg, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) <= 12 {
		return d
	}
	return alg + ":" + hex[:12]
}

// shortID keeps the end: the beginning of ed25519 peer IDs is always the same.
func shortID(id string) string {
	if len(id) <= 14 {
		return id
	}
	return ".." + id[len(id)-12:]
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func nonEmpty(list ...string) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// percent of have in all, rounded down and within 0 to 100.
func percent(have, all int64) int {
	if all <= 0 || have <= 0 {
		return 0
	}
	return int(math.Min(100, math.Floor(100*float64(have)/float64(all))))
}

func part(n, all int64) string {
	if all <= 0 {
		return size(n)
	}
	return fmt.Sprintf("%s (%s)", size(n), share(n, all))
}

// share is percent as text; a little is not nothing.
func share(n, all int64) string {
	if p := percent(n, all); p > 0 || n <= 0 {
		return fmt.Sprintf("%d%%", p)
	}
	return "<1%"
}

// size is a number of bytes for people: three digits and a binary unit.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		f /= 1024
		if f < 1023.5 {
			break
		}
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

// span is a duration for people: the two largest units.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// objectStoreText is how a seeder's object store is: where, and what is still
// to be done.
func objectStoreText(o *status.ObjectStore) string {
	text := clean(o.Location)
	if o.Error != "" {
		text += ", failing"
	}
	if o.Copying {
		text += ", being filled"
	}
	if o.Copies > 0 {
		text += ", " + count(o.Copies, "blob") + " to copy"
	}
	if o.Pending > 0 {
		text += ", " + count(o.Pending, "link") + " to mend"
	}
	return text
}
