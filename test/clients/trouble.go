package clients

import (
	"fmt"
	"time"
)

// How is a way to misbehave.
type How string

// What can be wrong with a source. Those that have an offset count the bytes of
// one answer's body (HTTP), or of one connection towards the client (pieces).
const (
	Gone   How = "gone"   // killed: connections are refused
	Silent How = "silent" // its cable is pulled: nothing answers, nothing is refused
	Frozen How = "frozen" // stopped: connections open, and nobody reads them
	Drop   How = "drop"   // closes each connection at once, without an answer
	Blip   How = "blip"   // resets all connections that are there, and is well
	Fin    How = "fin"    // closes after At bytes
	Reset  How = "rst"    // resets after At bytes
	Stall  How = "stall"  // sends At bytes and then nothing, for ever
	Flip   How = "flip"   // the byte at At is another one
	Slow   How = "slow"   // Rate bytes a second, all connections together
	Status How = "status" // answers Code
	Liar   How = "liar"   // peers only: one more peer that claims to have everything; Mode says what it gives
)

// LastByte as an offset is the last of the body.
const LastByte = -1

// Trouble is what is wrong with one source. nil: nothing.
type Trouble struct {
	How   How
	At    int64
	Rate  int
	Code  int
	Mode  string // of the liar
	Blobs bool   // HTTP: only blobs, manifests are well
}

func (t *Trouble) String() string {
	if t == nil {
		return "well"
	}
	s := string(t.How)
	switch t.How {
	case Fin, Reset, Stall, Flip:
		if s = fmt.Sprintf("%s@%d", t.How, t.At); t.At == LastByte {
			s = string(t.How) + "@last"
		}
	case Status:
		s = fmt.Sprint(t.Code)
	case Liar:
		s = "liar:" + t.Mode
	}
	if t.Blobs {
		s += "/blobs"
	}
	return s
}

// broken reports a source that cannot be counted on for the bytes. One that is
// slow, and a liar beside an honest peer, take none away.
func (t *Trouble) broken() bool { return t != nil && t.How != Slow && t.How != Liar && t.How != Blip }

// Condition is who has the image and what is wrong.
type Condition struct {
	Name string
	Cold bool // the upstream alone has the image; else seeder and peer have it, too
	// ByDigest has the client ask for a digest: it needs nobody who knows the tag.
	ByDigest bool
	Peer     *Trouble
	Seeder   *Trouble
	Upstream *Trouble // as seeder and peerd see it
	Straight *Trouble // the upstream as the client sees it
	// Kill ends the node's peerd with SIGKILL when a third of the layers has gone to the client.
	Kill bool
	// Restart, if any, is what happens at the same moment.
	Restart Restart
}

// Works says whether some source has the bytes, and so the pull has to work.
func (c Condition) Works() bool {
	if !c.Straight.broken() {
		return true
	}
	// By way of the mirror: somebody must know the tag, somebody have the bytes.
	upstream, seeder := !c.Upstream.broken(), !c.Seeder.broken()
	peer := !c.Peer.broken() && !c.Cold
	if c.Cold {
		return upstream
	}
	return upstream || seeder || peer && c.ByDigest
}

// Offsets at which answers are cut: pieces have 256 KiB.
const (
	midPiece  = 100_000
	pieceEnd  = 256 << 10
	laterByte = 1_500_000
)

// slowly is a rate at which a source is still good for all of the image.
const slowly = 1 << 20

// peerdKilled is promised to some clients only, Kind.Resumes.
const peerdKilled = "peerd-killed"

// Conditions are the columns of the matrix.
func Conditions() []Condition {
	all := []Condition{{Name: "no-fault"}, {Name: "no-fault-cold", Cold: true}}
	add := func(name string, c Condition) {
		c.Name = name
		all = append(all, c)
	}
	add(peerdKilled, Condition{Kill: true, Peer: &Trouble{How: Slow, Rate: slowly}, Seeder: &Trouble{How: Slow, Rate: slowly}})
	all = append(all, restarts()...)
	// A peer. The seeder is slow, so that the peer is needed.
	for _, t := range []Trouble{
		{How: Gone}, {How: Silent}, {How: Frozen}, {How: Drop}, {How: Fin, At: 1}, {How: Fin, At: midPiece}, {How: Fin, At: pieceEnd},
		{How: Reset, At: 1}, {How: Reset, At: midPiece}, {How: Stall, At: 0}, {How: Stall, At: midPiece}, {How: Flip, At: midPiece}, {How: Slow, Rate: 64 << 10},
		{How: Liar, Mode: "wrong"}, {How: Liar, Mode: "refuse"}, {How: Liar, Mode: "busy"}, {How: Liar, Mode: "fail"}, {How: Liar, Mode: "short"}, {How: Liar, Mode: "stall"},
	} {
		add("peer-"+t.String(), Condition{Peer: &t, Seeder: &Trouble{How: Slow, Rate: 3 * slowly}})
	}
	for _, t := range append(statuses(false),
		Trouble{How: Gone}, Trouble{How: Silent}, Trouble{How: Frozen}, Trouble{How: Drop}, Trouble{How: Fin, At: 1}, Trouble{How: Fin, At: midPiece},
		Trouble{How: Fin, At: pieceEnd}, Trouble{How: Fin, At: LastByte}, Trouble{How: Reset, At: 1}, Trouble{How: Reset, At: midPiece},
		Trouble{How: Stall, At: 0}, Trouble{How: Stall, At: midPiece}, Trouble{How: Flip, At: 10}, Trouble{How: Flip, At: midPiece}, Trouble{How: Slow, Rate: 64 << 10},
	) {
		add("seeder-"+t.String(), Condition{Seeder: &t})
	}
	// The upstream as the mirror sees it; the client has its own way there.
	cuts := []Trouble{
		{How: Drop}, {How: Fin, At: 0}, {How: Fin, At: 1}, {How: Fin, At: midPiece}, {How: Fin, At: pieceEnd}, {How: Fin, At: laterByte}, {How: Fin, At: LastByte},
		{How: Reset, At: 1}, {How: Reset, At: midPiece}, {How: Reset, At: laterByte}, {How: Stall, At: 0}, {How: Stall, At: midPiece}, {How: Stall, At: laterByte},
		{How: Flip, At: 10}, {How: Flip, At: midPiece}, {How: Slow, Rate: slowly},
	}
	for _, t := range append(append(statuses(false), statuses(true)...), cuts...) {
		add("upstream-"+t.String(), Condition{Cold: true, Upstream: &t})
	}
	for _, t := range []Trouble{{How: Fin, At: midPiece, Blobs: true}, {How: Stall, At: midPiece, Blobs: true}, {How: Flip, At: midPiece, Blobs: true}, {How: Drop, Blobs: true}} {
		add("upstream-"+t.String(), Condition{Cold: true, Upstream: &t})
	}
	// The upstream as everybody sees it: nobody has the bytes, or the swarm alone.
	for _, t := range []Trouble{
		{How: Drop}, {How: Fin, At: midPiece}, {How: Reset, At: midPiece}, {How: Stall, At: midPiece}, {How: Flip, At: midPiece}, {How: Slow, Rate: slowly},
		{How: Status, Code: 404}, {How: Status, Code: 429}, {How: Status, Code: 503}, {How: Status, Code: 503, Blobs: true},
	} {
		add("nobody-"+t.String(), Condition{Cold: true, Upstream: &t, Straight: &t})
	}
	for _, t := range []Trouble{{How: Drop}, {How: Stall}, {How: Status, Code: 429}, {How: Status, Code: 503}} {
		add("swarm-alone-"+t.String(), Condition{Upstream: &t, Straight: &t})
		add("peer-alone-"+t.String(), Condition{ByDigest: true, Seeder: &Trouble{How: Gone}, Upstream: &t, Straight: &t})
	}
	for _, t := range []Trouble{{How: Status, Code: 429}, {How: Status, Code: 503}} {
		add("blip-"+t.String(), Condition{Peer: &Trouble{How: Blip}, Seeder: &Trouble{How: Blip}, Upstream: &t, Straight: &t})
	}
	for _, t := range []Trouble{{How: Blip}, {How: Gone}, {How: Silent}, {How: Stall, At: midPiece}, {How: Fin, At: midPiece}, {How: Reset, At: midPiece}} {
		add("peer-and-seeder-"+t.String(), Condition{Peer: &t, Seeder: &t})
	}
	return all
}

func statuses(blobs bool) []Trouble {
	var all []Trouble
	for _, code := range []int{401, 403, 404, 429, 500, 503} {
		all = append(all, Trouble{How: Status, Code: code, Blobs: blobs})
	}
	return all
}

// patience is how long a pull may take in a condition: what a client does
// without a mirror may take as long, and is then called endless.
const patience = 120 * time.Second
