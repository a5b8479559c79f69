package upstream

import (
	"fmt"
	"regexp"
	"strings"
)

// Rules are what may be had from an upstream. The zero value forbids nothing.
//
// A pattern is a repository name in which "*" stands for any part of it up to a
// slash and "**" also for slashes. One that denies counts more than one that
// allows.
type Rules struct {
	Allow, Deny []string // of repositories; no Allow: all
	MaxBlob     int64    // bytes, 0 = any
}

// rules are Rules ready for use.
type rules struct {
	allow, deny []pattern
	maxBlob     int64
}

type pattern struct {
	text string
	re   *regexp.Regexp
}

func newRules(r Rules) (rules, error) {
	out := rules{maxBlob: r.MaxBlob}
	for _, list := range []struct {
		from []string
		to   *[]pattern
	}{{r.Allow, &out.allow}, {r.Deny, &out.deny}} {
		for _, text := range list.from {
			re, err := compilePattern(text)
			if err != nil {
				return rules{}, fmt.Errorf("pattern %q: %w", scrub(text), err)
			}
			*list.to = append(*list.to, pattern{text, re})
		}
	}
	return out, nil
}

func compilePattern(text string) (*regexp.Regexp, error) {
	q := regexp.QuoteMeta(text)
	q = strings.ReplaceAll(q, `\*\*`, `.*`)
	q = strings.ReplaceAll(q, `\*`, `[^/]*`)
	return regexp.Compile(`^` + q + `$`)
}

// repository tells why a repository may not be had; nil when it may.
func (r *rules) repository(repo string) error {
	for _, p := range r.deny {
		if p.re.MatchString(repo) {
			return fmt.Errorf("repository %s is denied here (deny=%s)", repo, p.text)
		}
	}
	if len(r.allow) == 0 {
		return nil
	}
	for _, p := range r.allow {
		if p.re.MatchString(repo) {
			return nil
		}
	}
	return fmt.Errorf("repository %s is not among those allowed here", repo)
}

// size tells why a blob of this size may not be had; nil when it may.
func (r *rules) size(n int64) error {
	if r.maxBlob > 0 && n > r.maxBlob {
		return fmt.Errorf("the blob has %d bytes, and blobs of more than %d are denied here (max-blob)", n, r.maxBlob)
	}
	return nil
}

// Permit tells whether the rules let a repository be had from an upstream, and
// a blob of this size in it (below 0: no blob, or not known yet). It asks
// nobody. Kinds: Refused. A name that is no upstream's is not its business.
func (c *Client) Permit(name, repo string, size int64) error {
	c.mu.RLock()
	e := c.byName[name]
	c.mu.RUnlock()
	if e == nil {
		return nil
	}
	err := e.rules.repository(scrub(repo))
	if err == nil {
		err = e.rules.size(size)
	}
	if err != nil {
		return &Error{Op: "permit", Upstream: name, Repo: scrub(repo), Kind: Refused, Err: err}
	}
	return nil
}
