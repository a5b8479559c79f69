package manifests

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	root  = "../.."
	chart = root + "/manifests/chart"
	// kubeVersion is what charts are rendered for: helm built from source says 1.20.
	kubeVersion = "1.36.0"
)

// program is one of bin/, which `make manifests` builds.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there (%v): run `make manifests`", name, err)
	}
	return path
}

// run is the standard output of a program of bin/, and what it said beside it.
func run(t *testing.T, name string, args ...string) (stdout, stderr []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program(t, name), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	// Nothing of who runs the tests: no repositories, plugins, kubeconfig.
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+t.TempDir(), "KUBECONFIG="+os.DevNull)
	err = cmd.Run()
	return out.Bytes(), errs.Bytes(), err
}

// overlays are the kustomizations that people apply.
func overlays(t *testing.T) []string {
	t.Helper()
	var list []string
	dir := root + "/manifests"
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "kustomization.yaml" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte("\nkind: Kustomization\n")) {
			rel, err := filepath.Rel(dir, filepath.Dir(path))
			list = append(list, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 12 {
		t.Fatalf("only %d kustomizations below %s: %v", len(list), dir, list)
	}
	return list
}

func kustomize(t *testing.T, overlay string) []byte {
	t.Helper()
	out, errs, err := run(t, "kustomize", "build", filepath.Join(root, "manifests", overlay))
	if err != nil || len(errs) > 0 { // it warns of what is deprecated
		t.Fatalf("kustomize build %s: %v\n%s", overlay, err, errs)
	}
	return out
}

// values are the files of testdata/values, by their names: what the chart is
// rendered with.
func values(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no values", err)
	}
	all := map[string][]string{"default": nil}
	for _, f := range files {
		all[strings.TrimSuffix(filepath.Base(f), ".yaml")] = []string{"--values", f}
	}
	return all
}

func helmTemplate(t *testing.T, args ...string) (out, errs []byte, err error) {
	t.Helper()
	return run(t, "helm", append([]string{"template", "samara", chart, "--namespace", "samara", "--kube-version", kubeVersion}, args...)...)
}

func helm(t *testing.T, args ...string) []byte {
	t.Helper()
	out, errs, err := helmTemplate(t, args...)
	if err != nil || len(errs) > 0 {
		t.Fatalf("helm template %v: %v\n%s", args, err, errs)
	}
	return out
}

// documents are the YAML documents of a rendering that say anything.
func documents(b []byte) [][]byte {
	var docs [][]byte
	for _, d := range bytes.Split(append([]byte("\n"), b...), []byte("\n---")) {
		var lines [][]byte
		for _, line := range bytes.Split(d, []byte("\n")) {
			if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
				lines = append(lines, line)
			}
		}
		if len(lines) > 0 {
			docs = append(docs, bytes.Join(lines, []byte("\n")))
		}
	}
	return docs
}

// objects are those of a rendering, by kind, namespace and name; those that are
// hooks of helm have "hook " before it.
func objects(t *testing.T, b []byte) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for _, d := range documents(b) {
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(d, &u.Object); err != nil {
			t.Fatalf("%v\n%s", err, d)
		}
		key := fmt.Sprintf("%s %s/%s", u.GetKind(), u.GetNamespace(), u.GetName())
		if u.GetAnnotations()["helm.sh/hook"] != "" {
			key = "hook " + key
		}
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = u
	}
	if len(all) == 0 {
		t.Fatal("nothing was rendered")
	}
	return all
}

// renderings are all that people may apply, by a name for it.
func renderings(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, o := range overlays(t) {
		all["kustomize "+o] = kustomize(t, o)
	}
	for name, args := range values(t) {
		all["chart "+name] = helm(t, args...)
	}
	return all
}
