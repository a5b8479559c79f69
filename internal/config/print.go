package config

import (
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Print writes the effective configuration as YAML that --config takes, with
// the source of every value that is not a default beside it. Passwords in
// URLs are redacted.
func (l *Loader) Print(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode, HeadComment: "Effective configuration of " + l.Daemon + "; values without a remark are defaults."}
	for _, f := range l.fields {
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}
		value := f.node()
		if s := l.sources[f.name]; s.Level != "default" {
			comment := s.Level + " " + strings.TrimSuffix(s.Where, ": "+f.name)
			if value.Kind == yaml.ScalarNode || value.Style == yaml.FlowStyle {
				value.LineComment = comment
			} else {
				key.LineComment = comment
			}
		}
		root.Content = append(root.Content, key, value)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return enc.Close()
}

// node is the field's value as YAML.
func (f field) node() *yaml.Node {
	values := f.values()
	switch p := f.ptr.(type) {
	case *[]Upstream:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, u := range *p {
			n.Content = append(n.Content, scalar(u.Name, "!!str"), scalar(u.text(), "!!str"))
		}
		return flowIfEmpty(n)
	case *[]string:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, v := range values {
			n.Content = append(n.Content, scalar(v, "!!str"))
		}
		return flowIfEmpty(n)
	case *bool:
		return scalar(values[0], "!!bool")
	case *int:
		return scalar(values[0], "!!int")
	}
	return scalar(values[0], "!!str")
}

func scalar(value, tag string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: value, Tag: tag}
}

func flowIfEmpty(n *yaml.Node) *yaml.Node {
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}
