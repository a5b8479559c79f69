package config

import (
	"strings"
	"testing"
	"time"
)

// contract 11, 12, 13: the defaults are the contract's.
func TestDefaultDeadlines(t *testing.T) {
	want := Deadlines{LookupTimeout: time.Second, LookupLimit: 2 * time.Second, ManifestTimeout: 8 * time.Second, HeaderTimeout: 2 * time.Second,
		SwitchTimeout: 2 * time.Second, GapTimeout: 10 * time.Second, RefuseCut: 90 * time.Second}
	c := DefaultPeerd()
	if c.Deadlines != want {
		t.Errorf("%+v", c.Deadlines)
	}
	if ps := c.Deadlines.problems(); len(ps) > 0 {
		t.Errorf("%+v", ps)
	}
	if ps := c.Deadlines.warnings(); len(ps) > 0 {
		t.Errorf("%+v", ps)
	}
}

// Deadlines that contradict one another, or what clients do, are errors that
// name both.
func TestDeadlinesThatContradict(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Deadlines)
		where  string
		says   string
	}{
		{"no time for a second source of names", func(d *Deadlines) { d.LookupTimeout = 2 * time.Second }, "--lookup-timeout", "2s leaves no time for whoever is asked next: after 2s (--lookup-limit)"},
		{"a lookup beyond the header", func(d *Deadlines) { d.LookupLimit = 3 * time.Second }, "--lookup-limit", "3s is more than 2s (--header-timeout)"},
		{"a manifest before the limit", func(d *Deadlines) { d.ManifestTimeout = time.Second }, "--manifest-timeout", "1s is less than 2s (--lookup-limit)"},
		{"a manifest that nobody waits for", func(d *Deadlines) { d.ManifestTimeout = 31 * time.Second }, "--manifest-timeout", "30s"},
		{"a header that nobody waits for", func(d *Deadlines) { d.HeaderTimeout = time.Minute }, "--header-timeout", "30s"},
		{"no time for other sources", func(d *Deadlines) { d.GapTimeout = 5 * time.Second }, "--switch-timeout", "2s leaves no time for two other sources: after 5s (--gap-timeout)"},
		{"a gap that no client waits for", func(d *Deadlines) { d.GapTimeout = 2 * time.Minute }, "--gap-timeout", "1m"},
		{"cut again", func(d *Deadlines) { d.RefuseCut = 30 * time.Second }, "--refuse-cut", "30s is not within 1m"},
		{"nothing", func(d *Deadlines) { d.SwitchTimeout = 0 }, "--switch-timeout", "0s is less than 50ms"},
		{"negative", func(d *Deadlines) { d.LookupTimeout = -time.Second }, "--lookup-timeout", "-1s is less than 50ms"},
	} {
		d := defaultDeadlines()
		test.change(&d)
		ps := d.problems()
		if len(ps) != 1 || ps[0].Where != test.where || !strings.Contains(ps[0].What, test.says) || ps[0].Fix == "" {
			t.Errorf("%s: %+v", test.name, ps)
		}
	}
	d := defaultDeadlines()
	d.HeaderTimeout = 4 * time.Second
	if ps := d.warnings(); len(d.problems()) > 0 || len(ps) != 1 || ps[0].Where != "--header-timeout" {
		t.Errorf("%+v, %+v", d.problems(), ps)
	}
}
