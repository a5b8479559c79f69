package retention

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const maxFile = 1 << 20

// Load reads a file of rules. names are those of this registry, which may
// stand before a repository. Errors name file and line, and say what to do.
func Load(file string, names []string) (Rules, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("is longer than %d bytes", maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	rules, err := Parse(content, names)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return rules, nil
}

// Parse reads rules.
func Parse(content []byte, names []string) (Rules, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(content))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("has no rules; remove --retention, or write a list")
		}
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more than one YAML document; keep one")
	}
	var rules Rules
	err := list(doc.Content[0], func(n *yaml.Node) error {
		p := Policy{}
		if err := p.parse(n, names); err != nil {
			return err
		}
		rules = append(rules, p)
		return nil
	})
	return rules, err
}

func (p *Policy) parse(n *yaml.Node, names []string) error {
	err := mapping(n, map[string]func(*yaml.Node) error{
		"repositories": func(n *yaml.Node) error {
			return texts(n, func(n *yaml.Node) error {
				pattern, err := newPattern(withoutName(n.Value, names))
				p.repositories = append(p.repositories, pattern)
				return at(n, err)
			})
		},
		"protect": func(n *yaml.Node) error { return tags(n, &p.Protect) },
		"keep": func(n *yaml.Node) error {
			return list(n, func(n *yaml.Node) error {
				k := Keep{}
				err := k.parse(n)
				p.Keep = append(p.Keep, k)
				return err
			})
		},
		"untagged": func(n *yaml.Node) (err error) {
			if n.Value == "keep" {
				p.Untagged = -1
				return nil
			}
			p.Untagged, err = age(n)
			return err
		},
	})
	switch {
	case err != nil:
		return err
	case len(p.repositories) == 0:
		return at(n, errors.New("names no repositories; write repositories: ['team/**'], or ['**'] for all"))
	case len(p.Protect) > 0 && len(p.Keep) == 0:
		return at(n, errors.New("protects some tags, but has no keep, so that all are kept; write what else is kept, or remove protect"))
	}
	return nil
}

func (k *Keep) parse(n *yaml.Node) error {
	err := mapping(n, map[string]func(*yaml.Node) error{
		"tags": func(n *yaml.Node) error { return tags(n, &k.Tags) },
		"newest": func(n *yaml.Node) (err error) {
			if k.Newest, err = strconv.Atoi(n.Value); err != nil || k.Newest < 1 {
				return at(n, fmt.Errorf("newest: %q is no number of tags; give 1 or more", n.Value))
			}
			return nil
		},
		"pushed": func(n *yaml.Node) (err error) { k.Pushed, err = age(n); return err },
		"pulled": func(n *yaml.Node) (err error) { k.Pulled, err = age(n); return err },
	})
	if err == nil && len(n.Content) == 0 {
		err = at(n, errors.New("is empty; give tags, newest, pushed or pulled"))
	}
	return err
}

// at adds the line to an error.
func at(n *yaml.Node, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("line %d: %w", n.Line, err)
}

// mapping hands each value to what its key stands for.
func mapping(n *yaml.Node, keys map[string]func(*yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return at(n, errors.New("want keys and values, like repositories: ['team/**']"))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := keys[key.Value]
		switch {
		case !ok:
			return at(key, fmt.Errorf("unknown key %q; docs/space.md lists them", key.Value))
		case seen[key.Value]:
			return at(key, fmt.Errorf("%s is there twice; remove one", key.Value))
		}
		seen[key.Value] = true
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if err := read(value); err != nil {
			return err
		}
	}
	return nil
}

func list(n *yaml.Node, each func(*yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return at(n, errors.New("want a list, each entry after a dash"))
	}
	for _, c := range n.Content {
		if c.Kind == yaml.AliasNode {
			c = c.Alias
		}
		if err := each(c); err != nil {
			return err
		}
	}
	return nil
}

// texts are a list of words, or a single one.
func texts(n *yaml.Node, each func(*yaml.Node) error) error {
	word := func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.Value == "" {
			return at(n, errors.New("want a word, in quotes where it has a star"))
		}
		return each(n)
	}
	if n.Kind == yaml.ScalarNode {
		return word(n)
	}
	return list(n, word)
}

func tags(n *yaml.Node, to *[]string) error {
	return texts(n, func(n *yaml.Node) error {
		if _, err := path.Match(n.Value, ""); err != nil || strings.Contains(n.Value, "/") {
			return at(n, fmt.Errorf("%q is no pattern of tags; * stands for anything, ? for one character, [0-9] for one of these", n.Value))
		}
		*to = append(*to, n.Value)
		return nil
	})
}

const day = 24 * time.Hour

var ageUnits = map[string]time.Duration{"d": day, "w": 7 * day}

// age is a duration with days and weeks.
func age(n *yaml.Node) (time.Duration, error) {
	d, err := time.ParseDuration(n.Value)
	if err != nil {
		for unit, length := range ageUnits {
			if number, ok := strings.CutSuffix(n.Value, unit); ok {
				var count int64
				count, err = strconv.ParseInt(number, 10, 32)
				d = time.Duration(count) * length
			}
		}
	}
	if err != nil || d <= 0 {
		return 0, at(n, fmt.Errorf("%q is no age; write one like 12h, 30d or 8w", n.Value))
	}
	return d, nil
}

func formatAge(d time.Duration) string {
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// withoutName drops the name of this registry before a repository.
func withoutName(s string, names []string) string {
	for _, name := range names {
		if rest, ok := strings.CutPrefix(s, name+"/"); ok {
			return rest
		}
	}
	return s
}

// pattern is of repositories, as rules of access have them: "*" stands for
// anything within a component, "**" for anything.
type pattern struct{ re *regexp.Regexp }

var patternRE = regexp.MustCompile(`^[a-z0-9*][a-z0-9._/*-]*$`)

func newPattern(s string) (pattern, error) {
	if !patternRE.MatchString(s) {
		return pattern{}, fmt.Errorf("%q is no pattern of repositories; * stands for anything within a component, ** for anything", s)
	}
	quoted := regexp.QuoteMeta(s)
	quoted = strings.ReplaceAll(quoted, `\*\*`, `.*`)
	quoted = strings.ReplaceAll(quoted, `\*`, `[^/]*`)
	re, err := regexp.Compile(`^` + quoted + `$`)
	return pattern{re}, err
}

func (p pattern) match(s string) bool { return p.re.MatchString(s) }
