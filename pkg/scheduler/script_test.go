package scheduler

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/samara-p2p/samara/pkg/piece"
)

// TestDownload plays the scripts of testdata/download: events in, actions out.
// "until T" sends the Ticks that WakeAt asks for, up to time T.
func TestDownload(t *testing.T) {
	datadriven.Walk(t, "testdata/download", func(t *testing.T, path string) {
		var d *Download
		var s script
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			s.t, s.td = t, td
			switch td.Cmd {
			case "new":
				d = s.newDownload()
				return ""
			case "step":
				return s.play(func(at time.Duration, words []string) {
					ev := s.event(words)
					for _, a := range d.Step(at, ev) {
						s.action(a)
					}
				}, func(at time.Duration) {
					for _, a := range d.Step(at, Tick{}) {
						s.action(a)
					}
				})
			case "stats":
				return fmt.Sprintf("%+v missing=%d\n", d.Stats(), d.Missing())
			}
			td.Fatalf(t, "unknown command %s", td.Cmd)
			return ""
		})
	})
}

// TestGiver plays the scripts of testdata/giver.
func TestGiver(t *testing.T) {
	datadriven.Walk(t, "testdata/giver", func(t *testing.T, path string) {
		var g *Giver
		var s script
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			s.t, s.td = t, td
			switch td.Cmd {
			case "new":
				s.wake = never
				c := GiverConfig{Seed: 1}
				s.scan("slots", &c.Slots)
				g = NewGiver(c)
				return ""
			case "step":
				return s.play(func(at time.Duration, words []string) {
					for _, a := range g.Step(at, s.giverEvent(words)) {
						s.giverAction(a)
					}
				}, func(at time.Duration) {
					for _, a := range g.Step(at, Tick{}) {
						s.giverAction(a)
					}
				})
			case "stats":
				return fmt.Sprintf("%+v active=%d waiting=%d\n", g.Stats(), g.Active(), g.Waiting())
			}
			td.Fatalf(t, "unknown command %s", td.Cmd)
			return ""
		})
	})
}

// script reads events and writes actions.
type script struct {
	t     *testing.T
	td    *datadriven.TestData
	out   strings.Builder
	n     int // pieces
	now   time.Duration
	wake  time.Duration
	wakes bool
}

func (s *script) scan(key string, dst *int) {
	if s.td.HasArg(key) {
		s.td.ScanArgs(s.t, key, dst)
	}
}

func (s *script) newDownload() *Download {
	s.wake, s.now = never, 0
	s.scan("pieces", &s.n)
	c := Config{Seed: 1, Geometry: s.geometry(s.n)}
	s.scan("max-requests", &c.MaxRequests)
	s.scan("window", &c.Window)
	var key int
	s.scan("key", &key)
	c.Key = uint64(key)
	c.NoFallback, c.Lazy, c.Paced = s.td.HasArg("no-fallback"), s.td.HasArg("lazy"), s.td.HasArg("paced")
	if s.td.HasArg("have") {
		var have string
		s.td.ScanArgs(s.t, "have", &have)
		c.Have = bitfieldOf(s.n, s.pieces(have))
	}
	return New(c)
}

func (s *script) geometry(n int) piece.Geometry {
	g, err := piece.GeometryOf(int64(n) * piece.MinSize)
	if err != nil {
		s.td.Fatalf(s.t, "%v", err)
	}
	return g
}

// play runs the lines "TIME event..." of the input.
func (s *script) play(step func(time.Duration, []string), tick func(time.Duration)) string {
	s.out.Reset()
	s.wakes = s.td.HasArg("wakes")
	for line := range strings.Lines(s.td.Input) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		at := s.duration(words[0])
		if words[1] == "until" {
			at = s.duration(words[2])
			for s.wake <= at {
				s.now = max(s.wake, s.now)
				s.wake = never
				before := s.out.Len()
				tick(s.now)
				if s.out.Len() > before {
					text := s.out.String()
					s.out.Reset()
					fmt.Fprintf(&s.out, "%s%v tick\n%s", text[:before], s.now, text[before:])
				}
			}
			s.now = at
			continue
		}
		s.now = at
		fmt.Fprintf(&s.out, "%v %s\n", at, strings.Join(words[1:], " "))
		step(at, words[1:])
	}
	return s.out.String()
}

func (s *script) say(format string, args ...any) {
	fmt.Fprintf(&s.out, "  "+format+"\n", args...)
}

func (s *script) action(a Action) {
	switch a := a.(type) {
	case RequestPieces:
		what := "pieces=" + runs(a.Pieces)
		if a.Any != nil {
			what = "any=" + fieldRuns(a.Any)
		}
		flags := ""
		if a.Urgent {
			flags += " urgent"
		}
		if a.Hedge {
			flags += " hedge"
		}
		s.say("request %d of %d %s max=%d%s", a.Request, a.Peer, what, a.Max, flags)
	case Cancel:
		s.say("cancel %d", a.Request)
	case Announce:
		s.say("announce %d", a.Piece)
	case Fallback:
		s.say("fallback %d pieces=%d-%d %s", a.Request, a.First, a.End-1, a.Reason)
	case Stuck:
		s.say("stuck: %s", a.Reason)
	case Pay:
		s.say("pay")
	case WakeAt:
		s.wake = a.At
		if s.wakes {
			s.say("wake %v", a.At)
		}
	}
}

func (s *script) giverAction(a GiverAction) {
	switch a := a.(type) {
	case Give:
		s.say("give %d pieces=%s", a.ID, runs(a.Pieces))
	case Busy:
		s.say("busy %d after=%v try=%v", a.ID, a.After, a.Try)
	case NotHeld:
		s.say("not-held %d", a.ID)
	case WakeAt:
		s.wake = a.At
		if s.wakes {
			s.say("wake %v", a.At)
		}
	}
}

// event reads one event of a Download; the rest of its words are flags and
// key=value pairs.
func (s *script) event(w []string) Event {
	switch w[0] {
	case "peer-up":
		return PeerUp{Peer: Peer(s.num(w[1])), Seeder: flag(w, "seeder"), SameZone: !flag(w, "far"),
			RTT: s.duration(val(w, "rtt", "0s")), Have: s.bitfield(w, "have"), Key: uint64(s.num(val(w, "key", "0")))}
	case "peer-down":
		return PeerDown{Peer(s.num(w[1]))}
	case "have":
		return Have{Peer(s.num(w[1])), s.pieces(w[2])}
	case "granted":
		return Granted{Request(s.num(w[1])), s.pieces(w[2])}
	case "progress":
		return Progress{Request(s.num(w[1])), int64(s.num(w[2]))}
	case "ok":
		return PieceOK{Request(s.num(w[1])), Peer(s.num(w[2])), s.num(w[3]), piece.MinSize}
	case "bad":
		return PieceBad{Request(s.num(w[1])), Peer(s.num(w[2])), s.num(w[3])}
	case "done":
		r := map[string]Result{"ok": ResultOK, "busy": ResultBusy, "not-held": ResultNotHeld, "failed": ResultFailed}[w[2]]
		return Done{Request(s.num(w[1])), r, s.duration(val(w, "after", "0s"))}
	case "want":
		return Want{s.num(w[1]), s.num(w[2]), s.num(w[3])}
	case "need":
		return Need{s.num(w[1]), s.num(w[2])}
	case "unwant":
		return Unwant{s.num(w[1])}
	case "lost":
		return Lost{s.pieces(w[1])}
	case "allow":
		return Allow{int64(s.num(w[1]))}
	case "unpaced":
		return Unpaced{}
	case "tick":
		return Tick{}
	}
	s.td.Fatalf(s.t, "unknown event %v", w)
	return nil
}

func (s *script) giverEvent(w []string) GiverEvent {
	switch w[0] {
	case "blob-up":
		s.n = s.num(val(w, "pieces", "8"))
		return BlobUp{Blob: Blob(s.num(w[1])), Geometry: s.geometry(s.n), Have: s.bitfield(w, "have"),
			Superseed: flag(w, "superseed"), Growing: flag(w, "growing")}
	case "grew":
		return BlobGrew{Blob(s.num(w[1])), s.num(w[2])}
	case "shrank":
		return BlobShrank{Blob(s.num(w[1])), s.pieces(w[2])}
	case "blob-done":
		return BlobDone{Blob(s.num(w[1]))}
	case "blob-down":
		return BlobDown{Blob(s.num(w[1]))}
	case "has":
		ev := PeerHas{Blob: Blob(s.num(w[1])), Peer: Peer(s.num(w[2])), Bitfield: s.bitfield(w, "all")}
		if ev.Bitfield == nil {
			ev.Pieces = s.pieces(w[3])
		}
		return ev
	case "gone":
		return PeerGone{Peer(s.num(w[1]))}
	case "ask":
		return Ask{ID: AskID(s.num(w[1])), Blob: Blob(s.num(w[2])), Peer: Peer(s.num(w[3])), Pieces: s.pieces(val(w, "pieces", "")),
			Any: s.bitfield(w, "any"), Max: s.num(val(w, "max", "1")), Urgent: flag(w, "urgent")}
	case "ask-gone":
		return AskGone{AskID(s.num(w[1]))}
	case "sent":
		return Sent{AskID(s.num(w[1])), !flag(w, "failed")}
	case "tick":
		return Tick{}
	}
	s.td.Fatalf(s.t, "unknown event %v", w)
	return nil
}

func (s *script) num(w string) int {
	n, err := strconv.Atoi(w)
	if err != nil {
		s.td.Fatalf(s.t, "%v", err)
	}
	return n
}

func (s *script) duration(w string) time.Duration {
	d, err := time.ParseDuration(w)
	if err != nil {
		s.td.Fatalf(s.t, "%v", err)
	}
	return d
}

// pieces reads "0-3,5".
func (s *script) pieces(w string) []int {
	var p []int
	for _, part := range strings.Split(w, ",") {
		if part == "" {
			continue
		}
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		for i := s.num(first); i <= s.num(last); i++ {
			p = append(p, i)
		}
	}
	return p
}

func (s *script) bitfield(w []string, key string) *piece.Bitfield {
	v := val(w, key, "-")
	if v == "-" {
		return nil
	}
	return bitfieldOf(s.n, s.pieces(v))
}

func bitfieldOf(n int, pieces []int) *piece.Bitfield {
	f := piece.NewBitfield(n)
	for _, i := range pieces {
		f.Set(i)
	}
	return f
}

func flag(words []string, name string) bool {
	for _, w := range words {
		if w == name {
			return true
		}
	}
	return false
}

func val(words []string, key, def string) string {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return def
}

func fieldRuns(f *piece.Bitfield) string {
	var p []int
	for i := range f.All() {
		p = append(p, i)
	}
	return runs(p)
}

// runs writes pieces as "0-3,5"; pieces that are not in order stay so.
func runs(p []int) string {
	if !sort.IntsAreSorted(p) {
		return strings.Trim(strings.ReplaceAll(fmt.Sprint(p), " ", ","), "[]")
	}
	var out []string
	for k := 0; k < len(p); {
		j := k
		for j+1 < len(p) && p[j+1] == p[j]+1 {
			j++
		}
		if j > k {
			out = append(out, fmt.Sprintf("%d-%d", p[k], p[j]))
		} else {
			out = append(out, strconv.Itoa(p[k]))
		}
		k = j + 1
	}
	return strings.Join(out, ",")
}
