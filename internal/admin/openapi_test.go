package admin

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// document is as much of an OpenAPI document as the test holds to the code.
type document struct {
	OpenAPI string `yaml:"openapi"`
	Servers []struct{ URL string }
	Paths   map[string]map[string]yaml.Node
	// Components
	Components struct {
		Schemas   map[string]schema
		Responses map[string]any
	}
}

type operation struct {
	OperationID string `yaml:"operationId"`
	Parameters  []struct{ Name, In string }
	RequestBody *body `yaml:"requestBody"`
	Responses   map[string]struct {
		Ref  string `yaml:"$ref"`
		body `yaml:",inline"`
	}
}

type body struct {
	Content map[string]struct{ Schema schema }
}

type schema struct {
	Ref        string `yaml:"$ref"`
	Type       string
	Format     string
	Items      *schema
	Required   []string
	Properties map[string]schema
	Additional *bool `yaml:"additionalProperties"`
}

func readDocument(t *testing.T) document {
	t.Helper()
	var doc document
	if err := yaml.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" || len(doc.Servers) != 1 || doc.Servers[0].URL != Prefix {
		t.Fatalf("%s %v", doc.OpenAPI, doc.Servers)
	}
	return doc
}

// name is the schema of a value; "" for none.
func (b *body) name() string {
	if b == nil {
		return ""
	}
	return strings.TrimPrefix(b.Content["application/json"].Schema.Ref, "#/components/schemas/")
}

func typeName(v any) string {
	if _, ok := v.(none); ok {
		return ""
	}
	return reflect.TypeOf(v).Name()
}

// The document has each operation, with its bodies, and no other.
func TestOperations(t *testing.T) {
	doc := readDocument(t)
	documented := map[string]operation{}
	for path, methods := range doc.Paths {
		for method, node := range methods {
			if method == "parameters" {
				continue
			}
			var op operation
			if err := node.Decode(&op); err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			documented[strings.ToUpper(method)+" "+path] = op
			for code, r := range op.Responses {
				ref, isRef := strings.CutPrefix(r.Ref, "#/components/responses/")
				if _, ok := doc.Components.Responses[ref]; isRef && !ok {
					t.Errorf("%s %s: %s is %s, which is not there", method, path, code, ref)
				}
			}
		}
	}
	delete(documented, "GET /openapi.yaml")
	s := New(Options{})
	for _, rt := range s.routes() {
		key := rt.method + " " + rt.path
		op, ok := documented[key]
		delete(documented, key)
		if !ok {
			t.Errorf("%s is not in the document", key)
			continue
		}
		r := op.Responses[fmt.Sprint(rt.status)]
		if in, out := op.RequestBody.name(), r.body.name(); in != typeName(rt.in) || out != typeName(rt.out) {
			t.Errorf("%s: %q to %q in the document, and %q to %q in the code", key, in, out, typeName(rt.in), typeName(rt.out))
		}
	}
	for key := range documented {
		t.Errorf("%s is in the document only", key)
	}
}

// Each schema is the Go type of its name.
func TestSchemas(t *testing.T) {
	doc := readDocument(t)
	types := map[string]reflect.Type{"Problem": reflect.TypeFor[Problem]()}
	var collect func(reflect.Type)
	collect = func(rt reflect.Type) {
		for rt.Kind() == reflect.Pointer || rt.Kind() == reflect.Slice {
			rt = rt.Elem()
		}
		if rt.Kind() != reflect.Struct || rt == reflect.TypeFor[time.Time]() || rt == reflect.TypeFor[none]() || types[rt.Name()] != nil {
			return
		}
		types[rt.Name()] = rt
		for _, f := range fields(rt) {
			collect(f.Type)
		}
	}
	for _, rt := range New(Options{}).routes() {
		collect(reflect.TypeOf(rt.in))
		collect(reflect.TypeOf(rt.out))
	}
	for name, rt := range types {
		s, ok := doc.Components.Schemas[name]
		if !ok {
			t.Errorf("there is no schema %s", name)
			continue
		}
		var required []string
		properties := map[string]schema{}
		for key, f := range fields(rt) {
			properties[key] = schemaOf(f.Type)
			if _, options, _ := strings.Cut(f.Tag.Get("json"), ","); !strings.Contains(options, "omit") {
				required = append(required, key)
			}
		}
		slices.Sort(required)
		slices.Sort(s.Required)
		if !slices.Equal(required, s.Required) {
			t.Errorf("%s: required are %v, in the document %v", name, required, s.Required)
		}
		if s.Type != "object" || s.Additional == nil || *s.Additional {
			t.Errorf("%s: want an object without additionalProperties", name)
		}
		if !reflect.DeepEqual(properties, s.Properties) {
			t.Errorf("%s:\n%s, in the document\n%s", name, show(properties), show(s.Properties))
		}
	}
	for name := range doc.Components.Schemas {
		if types[name] == nil {
			t.Errorf("schema %s is of no operation", name)
		}
	}
}

func show(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// fields are those that JSON has, by their keys.
func fields(rt reflect.Type) map[string]reflect.StructField {
	list := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(rt) {
		if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); f.IsExported() && key != "-" && key != "" {
			list[key] = f
		}
	}
	return list
}

func schemaOf(rt reflect.Type) schema {
	switch rt.Kind() {
	case reflect.String:
		return schema{Type: "string"}
	case reflect.Bool:
		return schema{Type: "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return schema{Type: "integer"}
	case reflect.Float64:
		return schema{Type: "number"}
	case reflect.Slice:
		items := schemaOf(rt.Elem())
		return schema{Type: "array", Items: &items}
	case reflect.Pointer:
		return schemaOf(rt.Elem())
	case reflect.Struct:
		if rt == reflect.TypeFor[time.Time]() {
			return schema{Type: "string", Format: "date-time"}
		}
		return schema{Ref: "#/components/schemas/" + rt.Name()}
	}
	return schema{Type: "unknown: " + rt.String()}
}

// The parameters in the document are those that the code reads.
func TestParameters(t *testing.T) {
	doc := readDocument(t)
	got := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, node := range methods {
			var op operation
			if method == "parameters" {
				continue
			}
			if err := node.Decode(&op); err != nil {
				t.Fatal(err)
			}
			for _, p := range op.Parameters {
				got[strings.ToUpper(method)+" "+path+" "+p.Name] = true
			}
		}
	}
	want := []string{
		http.MethodDelete + " /trash all", "DELETE /trash repository", "GET /jobs/{id} wait", "GET /prewarm/orders/{id} wait", "GET /trash repository", "GET /usage prefix",
		"GET /eviction bytes", "GET /audit limit", "GET /peers zone", "GET /pulls repository", "GET /repository name",
	}
	for _, path := range []string{"peers", "pulls", "repository"} {
		want = append(want, "GET /"+path+" match", "GET /"+path+" limit", "GET /"+path+" offset")
	}
	slices.Sort(want)
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, want) {
		t.Errorf("%q, want %q", keys, want)
	}
}
