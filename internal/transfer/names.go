package transfer

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Selection says which images are moved and what their repositories are to be
// called.
type Selection struct {
	include, exclude []pattern
	renames          []rename
}

// pattern is of repositories, and of tags.
type pattern struct{ repo, tag *regexp.Regexp }

type rename struct{ from, to string }

// NewSelection reads patterns and renames. A pattern is REPOSITORY or
// REPOSITORY:TAG, in which "*" stands for any part up to a slash and "**" also
// for slashes; no include means all. A rename is FROM=TO, prefixes of whole path
// components; an empty FROM stands before every name, an empty TO drops FROM.
// The first that matches counts.
func NewSelection(include, exclude, renames []string) (*Selection, error) {
	s := &Selection{}
	for _, list := range []struct {
		from []string
		to   *[]pattern
	}{{include, &s.include}, {exclude, &s.exclude}} {
		for _, text := range list.from {
			p, err := newPattern(text)
			if err != nil {
				return nil, err
			}
			*list.to = append(*list.to, p)
		}
	}
	for _, text := range renames {
		from, to, ok := strings.Cut(text, "=")
		from, to = strings.Trim(from, "/"), strings.Trim(to, "/")
		if !ok || from == to || to != "" && !registry.ValidRepository(to) {
			return nil, fmt.Errorf("%q: want FROM=TO, prefixes of repository names, like old/team=team, or =mirror to put mirror/ before all", text)
		}
		s.renames = append(s.renames, rename{from, to})
	}
	return s, nil
}

func newPattern(text string) (pattern, error) {
	repo, tag, tagged := strings.Cut(text, ":")
	if repo == "" || tagged && tag == "" {
		return pattern{}, fmt.Errorf("%q: want a pattern of repositories like team/**, or of images like team/app:v1.*", text)
	}
	p := pattern{repo: glob(repo)}
	if tagged {
		p.tag = glob(tag)
	}
	return p, nil
}

func glob(text string) *regexp.Regexp {
	q := regexp.QuoteMeta(text)
	q = strings.ReplaceAll(q, `\*\*`, `.*`)
	q = strings.ReplaceAll(q, `\*`, `[^/]*`)
	return regexp.MustCompile(`^` + q + `$`)
}

func (p pattern) match(repo, ref string) bool {
	return p.repo.MatchString(repo) && (p.tag == nil || !registry.IsDigest(ref) && p.tag.MatchString(ref))
}

// Chosen tells whether an image is to be moved; ref is a tag or a digest.
func (s *Selection) Chosen(repo, ref string) bool {
	for _, p := range s.exclude {
		if p.match(repo, ref) {
			return false
		}
	}
	for _, p := range s.include {
		if p.match(repo, ref) {
			return true
		}
	}
	return len(s.include) == 0
}

// Rename is what a repository is to be called.
func (s *Selection) Rename(repo string) (string, error) {
	for _, r := range s.renames {
		rest, ok := repo, true
		if r.from != "" {
			rest, ok = strings.CutPrefix(repo+"/", r.from+"/")
		}
		if !ok {
			continue
		}
		repo = strings.Trim(r.to+"/"+rest, "/")
		break
	}
	if !registry.ValidRepository(repo) {
		return "", fmt.Errorf("%q is no name of a repository", repo)
	}
	return repo, nil
}

// Host splits the host off the name of an image, by docker's rule: the first
// component is one where it has a dot or a colon, or is localhost.
func Host(name string) (host, rest string) {
	first, rest, ok := strings.Cut(name, "/")
	if ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return first, rest
	}
	return "", name
}

// ParseImage reads REPOSITORY:TAG or REPOSITORY@DIGEST; the repository may begin
// with a host. No tag means latest.
func ParseImage(s string) (repo, ref string, err error) {
	if repo, d, ok := strings.Cut(s, "@"); ok {
		if _, err := registry.ParseDigest(d); err != nil {
			return "", "", fmt.Errorf("%q: %w", s, err)
		}
		if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
			repo = repo[:i] // the digest says more than the tag
		}
		return checkImage(s, repo, d)
	}
	repo, ref = s, "latest"
	if i := strings.LastIndex(s, ":"); i > strings.LastIndex(s, "/") {
		repo, ref = s[:i], s[i+1:]
	}
	if !registry.ValidTag(ref) {
		return "", "", fmt.Errorf("%q: %q is no tag", s, ref)
	}
	return checkImage(s, repo, ref)
}

var errNoImage = errors.New("want REPOSITORY:TAG or REPOSITORY@DIGEST")

func checkImage(s, repo, ref string) (string, string, error) {
	if _, rest := Host(repo); !registry.ValidRepository(rest) {
		return "", "", fmt.Errorf("%q: %w", s, errNoImage)
	}
	return repo, ref, nil
}
