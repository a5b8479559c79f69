package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"go.yaml.in/yaml/v3"
)

// loadYAML reads a mapping of settings. Problems name file, line and key.
func (l *Loader) loadYAML(file string, content []byte) []Problem {
	root, problem := parseYAML(file, content)
	if problem != nil || root == nil {
		return problem
	}
	var problems []Problem
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		at := fmt.Sprintf("%s:%d", file, key.Line)
		f, ok := l.field(key.Value)
		if !ok {
			problems = append(problems, Problem{Where: at, What: fmt.Sprintf("unknown key %q", key.Value), Fix: l.suggest(key.Value)})
			continue
		}
		if line, ok := seen[f.name]; ok {
			problems = append(problems, Problem{Where: at, What: fmt.Sprintf("key %q is given twice", f.name), Fix: fmt.Sprintf("it is also on line %d; remove one", line)})
			continue
		}
		seen[f.name] = key.Line
		values, err := nodeValues(f, value)
		if err != nil {
			problems = append(problems, Problem{Where: at + ": " + f.name, What: err.Error()})
			continue
		}
		problems = l.assign(problems, f, values, Source{"file", at + ": " + f.name})
	}
	return problems
}

// parseYAML gives the top-level mapping, or nil for an empty file.
func parseYAML(file string, content []byte) (*yaml.Node, []Problem) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, []Problem{{Where: file, What: err.Error(), Fix: "correct the YAML there"}}
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, []Problem{{Where: file, What: "has more than one YAML document", Fix: "keep one"}}
	}
	root := &doc
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, []Problem{{Where: fmt.Sprintf("%s:%d", file, root.Line), What: "is not a mapping of settings", Fix: `write lines like "listen: :5000"`}}
	}
	return root, nil
}

func (l *Loader) field(name string) (field, bool) {
	for _, f := range l.fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// nodeValues gives a YAML value as the texts that the flag would be given.
func nodeValues(f field, n *yaml.Node) ([]string, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	_, pairs := f.ptr.(*[]Upstream)
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return nil, errors.New("has no value; give one or remove the line to get the default")
	case n.Kind == yaml.ScalarNode:
		return []string{n.Value}, nil
	case n.Kind == yaml.SequenceNode && f.repeatable():
		values := []string{}
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode || c.Tag == "!!null" {
				return nil, fmt.Errorf("line %d: want plain text in this list", c.Line)
			}
			values = append(values, c.Value)
		}
		return values, nil
	case n.Kind == yaml.MappingNode && pairs:
		values := []string{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			text, err := upstreamText(v)
			if k.Kind != yaml.ScalarNode || err != nil {
				return nil, fmt.Errorf("line %d: want NAME: URL, or NAME: and a mapping with url and options", k.Line)
			}
			values = append(values, k.Value+"="+text)
		}
		return values, nil
	}
	return nil, fmt.Errorf("want a %s", f.kind())
}

// suggest names the nearest known key.
func (l *Loader) suggest(key string) string {
	best, dist := "", 1+max(2, len(key)/2)
	for _, f := range l.fields {
		if d := distance(key, f.name); d < dist {
			best, dist = f.name, d
		}
	}
	if best == "" {
		return fmt.Sprintf("remove it; `%s config print` shows the keys there are", l.Daemon)
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// distance is Levenshtein's; upper case, '_' and '-' count as one.
func distance(a, b string) int {
	x, y := foldKey(a), foldKey(b)
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(y)]
}

// foldKey drops what people spell differently: tagTTL, tag_ttl and tag-ttl.
func foldKey(s string) string {
	var b []byte
	for i := range min(len(s), 64) {
		switch c := s[i]; {
		case c == '_' || c == '-':
		case 'A' <= c && c <= 'Z':
			b = append(b, c+'a'-'A')
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// bare drops the operation and path of a file error, for messages that begin
// with the path.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
