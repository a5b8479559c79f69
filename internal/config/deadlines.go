package config

import (
	"fmt"
	"time"
)

// Deadlines are how long a mirror may take (docs/mirror-contract.md, contract
// 11 to 14). Clients give up, or fail, by their own: those below keep within all
// of them.
type Deadlines struct {
	LookupTimeout   time.Duration `name:"lookup-timeout" group:"Deadlines" help:"how long whoever is asked about a name may give no sign of life before the next one is asked, too"`
	LookupLimit     time.Duration `name:"lookup-limit" group:"Deadlines" help:"what nobody answers for is 404 after this, so that the client moves on to its next host"`
	ManifestTimeout time.Duration `name:"manifest-timeout" group:"Deadlines" help:"how long a tag, or a manifest that another one names, is waited for while a seeder is alive and at work for it"`
	HeaderTimeout   time.Duration `name:"header-timeout" group:"Deadlines" help:"a request for a blob has its status line by then: 200 where a source is at work, else 404"`
	SwitchTimeout   time.Duration `name:"switch-timeout" group:"Deadlines" help:"how long a source of pieces may stand still before its pieces are asked of another"`
	GapTimeout      time.Duration `name:"gap-timeout" group:"Deadlines" help:"how long a body may stand still before it is cut; the upstream is asked well before"`
	RefuseCut       time.Duration `name:"refuse-cut" group:"Deadlines" help:"how long a blob whose body had to be cut is 404, so that the client resumes at its next host"`
}

func defaultDeadlines() Deadlines {
	return Deadlines{
		LookupTimeout: time.Second, LookupLimit: 2 * time.Second, ManifestTimeout: 8 * time.Second,
		HeaderTimeout: 2 * time.Second, SwitchTimeout: 2 * time.Second, GapTimeout: 10 * time.Second,
		RefuseCut: 90 * time.Second,
	}
}

// What clients do by themselves (measured; contract 11 to 14).
const (
	shortest     = 50 * time.Millisecond // less is no time on a busy machine
	headerOuter  = 30 * time.Second      // containerd 2.3 and later gives up on a response without a header
	headerLazy   = 3 * time.Second       // the SOCI snapshotter does
	gapOuter     = time.Minute           // shortest progress timer in the field
	refuseAtMost = time.Hour
)

// problems are deadlines that no client keeps to, or that contradict one another.
func (d *Deadlines) problems() []Problem {
	var ps []Problem
	add := func(where, fix, format string, args ...any) {
		ps = append(ps, Problem{Where: "--" + where, What: fmt.Sprintf(format, args...), Fix: fix})
	}
	for _, x := range []struct {
		name string
		v    time.Duration
	}{{"lookup-timeout", d.LookupTimeout}, {"lookup-limit", d.LookupLimit}, {"manifest-timeout", d.ManifestTimeout},
		{"header-timeout", d.HeaderTimeout}, {"switch-timeout", d.SwitchTimeout}, {"gap-timeout", d.GapTimeout}} {
		if x.v < shortest {
			add(x.name, "give a duration like 1s", "%v is less than %v: nobody could answer", x.v, shortest)
		}
	}
	if len(ps) > 0 {
		return ps // what follows would say the same again
	}
	if d.LookupTimeout >= d.LookupLimit {
		add("lookup-timeout", "give less than --lookup-limit", "%v leaves no time for whoever is asked next: after %v (--lookup-limit) the answer is 404", d.LookupTimeout, d.LookupLimit)
	}
	if d.LookupLimit > d.HeaderTimeout {
		add("lookup-limit", "give --header-timeout or less", "%v is more than %v (--header-timeout), by which a blob's status line is sent", d.LookupLimit, d.HeaderTimeout)
	}
	if d.LookupLimit > d.ManifestTimeout {
		add("manifest-timeout", "give --lookup-limit or more", "%v is less than %v (--lookup-limit)", d.ManifestTimeout, d.LookupLimit)
	}
	if d.ManifestTimeout > headerOuter {
		add("manifest-timeout", "give 30s or less", "%v is more than the %v for which containerd waits for an answer", d.ManifestTimeout, headerOuter)
	}
	if d.HeaderTimeout > headerOuter {
		add("header-timeout", "give 30s or less", "%v is more than the %v for which containerd waits for an answer", d.HeaderTimeout, headerOuter)
	}
	if 3*d.SwitchTimeout > d.GapTimeout {
		add("switch-timeout", "give a third of --gap-timeout or less", "%v leaves no time for two other sources: after %v (--gap-timeout) the body is cut", d.SwitchTimeout, d.GapTimeout)
	}
	if d.GapTimeout > gapOuter {
		add("gap-timeout", "give 1m or less", "%v is more than the %v after which clients give a pull up for good", d.GapTimeout, gapOuter)
	}
	if d.RefuseCut < time.Minute || d.RefuseCut > refuseAtMost {
		add("refuse-cut", "give 1m to 1h", "%v is not within 1m to %v: a client that comes back sooner would be cut again", d.RefuseCut, refuseAtMost)
	}
	return ps
}

func (d *Deadlines) warnings() []Problem {
	if d.HeaderTimeout <= headerLazy {
		return nil
	}
	return []Problem{{Where: "--header-timeout", What: fmt.Sprintf("%v is more than the %v for which lazy snapshotters wait (SOCI 3s, nydusd 5s for all of a request)", d.HeaderTimeout, headerLazy),
		Fix: "leave it at 2s where such are used"}}
}
