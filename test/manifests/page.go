package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// property is what a JSON schema says of a value, as far as the page needs it.
type property struct {
	Type        any                  `json:"type"` // a string, or a list of them
	Description string               `json:"description"`
	Enum        []string             `json:"enum"`
	Properties  map[string]*property `json:"properties"`
}

// ValuesPage is the page about the chart's values: each value of the schema, with
// its default from values.yaml. A value that only one of the two has, or that
// has no description, is an error.
func ValuesPage(schema, values string) ([]byte, error) {
	b, err := os.ReadFile(schema)
	if err != nil {
		return nil, err
	}
	var top property
	if err := json.Unmarshal(b, &top); err != nil {
		return nil, fmt.Errorf("%s: %w", schema, err)
	}
	if b, err = os.ReadFile(values); err != nil {
		return nil, err
	}
	var defaults map[string]any
	if err := yaml.UnmarshalStrict(b, &defaults); err != nil {
		return nil, fmt.Errorf("%s: %w", values, err)
	}
	delete(top.Properties, "global") // Helm's own
	var w bytes.Buffer
	w.WriteString(`<!-- Generated from manifests/chart/values.schema.json and values.yaml by "make values-page"; do not edit. -->
# Values of the chart

What each means at large: [kubernetes.md](kubernetes.md). A value that the schema does not know is refused by helm, with a message that names it.
`)
	var errs []error
	for _, group := range order(defaults, top.Properties, b) {
		p, v := top.Properties[group], defaults[group]
		if p == nil || v == nil {
			errs = append(errs, fmt.Errorf("%s is not in both %s and %s", group, schema, values))
			continue
		}
		fmt.Fprintf(&w, "\n## %s\n\n", group)
		head := "| value | default | meaning |\n|---|---|---|\n"
		if len(p.Properties) == 0 {
			w.WriteString(head)
			row(&w, group, p, v)
			continue
		}
		fmt.Fprintf(&w, "%s\n\n%s", p.Description, head)
		fields, _ := v.(map[string]any)
		errs = append(errs, rows(&w, group, p, fields)...)
	}
	return w.Bytes(), errors.Join(errs...)
}

// order is that of the groups in values.yaml, which is made for reading; what
// only the schema has comes last.
func order(defaults map[string]any, props map[string]*property, text []byte) []string {
	var names []string
	for line := range strings.Lines(string(text)) {
		name, _, ok := strings.Cut(line, ":")
		if _, is := defaults[name]; ok && is && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range sorted(props) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func rows(w *bytes.Buffer, path string, p *property, values map[string]any) (errs []error) {
	for _, name := range sorted(values) {
		if p.Properties[name] == nil && len(p.Properties) > 0 {
			errs = append(errs, fmt.Errorf("%s.%s has a default, and is not in the schema", path, name))
		}
	}
	for _, name := range sorted(p.Properties) {
		q, v, at := p.Properties[name], values[name], path+"."+name
		if _, ok := values[name]; !ok {
			errs = append(errs, fmt.Errorf("%s is in the schema, and has no default", at))
			continue
		}
		if q.Description == "" {
			errs = append(errs, fmt.Errorf("%s has no description", at))
		}
		fields, isMap := v.(map[string]any)
		// An object whose parts are described gets a row for each.
		if isMap && len(q.Properties) > 0 && described(q) {
			errs = append(errs, rows(w, at, q, fields)...)
			continue
		}
		row(w, at, q, v)
	}
	return errs
}

// described tells whether all parts of an object are plain values.
func described(p *property) bool {
	for _, q := range p.Properties {
		if q.Type == "object" {
			return false
		}
	}
	return true
}

func row(w *bytes.Buffer, path string, p *property, v any) {
	text := p.Description
	if len(p.Enum) > 0 {
		text += " One of `" + strings.Join(p.Enum, "`, `") + "`."
	}
	b, err := json.Marshal(v) // one line, and YAML as well
	if err != nil {
		b = []byte(err.Error())
	}
	fmt.Fprintf(w, "| `%s` | `%s` | %s |\n", path, b, strings.ReplaceAll(strings.TrimSpace(text), "|", `\|`))
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
