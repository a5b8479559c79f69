package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/samara-p2p/samara/internal/canary"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/hostconf"
	"github.com/samara-p2p/samara/pkg/registry"
)

const (
	// lately is how far the look back goes.
	lately = time.Hour
	// slack is how long before its end a pull may have asked for its manifest.
	slack = 30 * time.Minute
	// remembered is how many repositories peerd remembers (pkg/mirror).
	remembered = 512
)

// historian is a puller that knows what was pulled.
type historian interface {
	pulls(ctx context.Context) ([]pulled, error)
}

// pulled is an image, and when it came.
type pulled struct {
	image string
	at    time.Time
}

// history compares what each runtime has pulled lately with what peerd was asked
// for. What a runtime has got of a registry that the mirror is for, of a repository
// that peerd was never asked for, has passed the mirror by.
func (d *doctor) history(ctx context.Context, canaries []Check) []Check {
	if d.st == nil {
		return []Check{{Check: checkBypass, Result: Skipped, Text: "only peerd knows what it was asked for, and it does not answer"}}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	// As it is now: the canaries took a while.
	var st status.Status
	if err := d.admin.call(ctx, "GET", "/v1/status", &st); err != nil {
		return []Check{{Check: checkBypass, Result: Skipped, Text: err.Error()}}
	}
	var out []Check
	for _, r := range d.Settings.Runtimes {
		p, err := d.puller(r)
		if err != nil {
			continue // said where its canary is
		}
		out = append(out, d.historyOf(ctx, r, p, &st, arrived(canaries, string(r))))
		p.close()
	}
	return out
}

func (d *doctor) historyOf(ctx context.Context, r hostconf.Runtime, p puller, st *status.Status, now bool) Check {
	c := Check{Check: checkBypass, Subject: string(r)}
	h, ok := p.(historian)
	if !ok {
		c.Result, c.Text = Skipped, "it keeps no list of what it has pulled"
		return c
	}
	list, err := h.pulls(ctx)
	if err != nil {
		c.Result, c.Text = Skipped, "it does not tell what it has pulled: "+err.Error()
		return c
	}
	looked, passed := compare(list, d.upstreams(), st, time.Now())
	since := st.StartedAt
	if t := time.Now().Add(-lately); t.After(since) {
		since = t
	}
	if len(passed) == 0 {
		c.Result, c.Text = OK, fmt.Sprintf("of %d images that came since %s, the mirror was asked for each", looked, since.Format(time.TimeOnly))
		return c
	}
	c.Result, c.Code = Fault, codeLately
	if now {
		c.Result = Warning
	}
	c.Text = fmt.Sprintf("%d of %d images that came since %s passed the mirror by, the last %s at %s: peerd was not asked for that repository",
		len(passed), looked, since.Format(time.TimeOnly), passed[0].image, passed[0].at.Format(time.TimeOnly))
	c.Remedy = "if it was pulled, and not imported: look whether the canary arrives, which registry it came from, and whether peerd answered at that time"
	return c
}

// compare finds the pulls that peerd was not asked for, the latest first, and how
// many it could judge: those of registries that it stands for, since it runs.
func compare(list []pulled, upstreams []string, st *status.Status, now time.Time) (looked int, passed []pulled) {
	asked := map[string]time.Time{}
	var horizon time.Time // before it, peerd may have forgotten
	for _, a := range st.Clients.Repositories {
		asked[a.Name] = a.Last
		if len(st.Clients.Repositories) >= remembered {
			horizon = a.Last
		}
	}
	seen := map[string]bool{}
	for _, p := range list {
		n, err := registry.ParseName(repository(p.image))
		if err != nil || !slices.Contains(upstreams, n.Upstream) || n.Repository == canary.Repository {
			continue
		}
		begun := p.at.Add(-slack)
		if p.at.Before(st.StartedAt) || now.Sub(p.at) > lately || begun.Before(horizon) || seen[n.String()] {
			continue
		}
		seen[n.String()] = true
		looked++
		if last, ok := asked[n.String()]; !ok || last.Before(begun) {
			passed = append(passed, p)
		}
	}
	slices.SortFunc(passed, func(a, b pulled) int { return b.at.Compare(a.at) })
	return looked, passed
}

// repository is an image's name without tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image
}
