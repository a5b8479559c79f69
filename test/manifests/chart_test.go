package manifests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// The chart with each of these values is what the overlay is.
var same = []struct{ values, install, undo string }{
	{"default", "daemonset/overlays/containerd/install", "daemonset/overlays/containerd/undo"},
	{"k3s", "daemonset/overlays/k3s/install", "daemonset/overlays/k3s/undo"},
	{"rke2", "daemonset/overlays/rke2/install", "daemonset/overlays/rke2/undo"},
	{"crio", "daemonset/overlays/crio/install", "daemonset/overlays/crio/undo"},
	{"trial", "daemonset/overlays/trial", "daemonset/overlays/containerd/undo"},
}

func TestChartIsKustomize(t *testing.T) {
	cases := values(t)
	for _, c := range same {
		t.Run(c.values, func(t *testing.T) {
			args := cases[c.values]
			if args == nil && c.values != "default" {
				t.Fatalf("no values %s", c.values)
			}
			chart := objects(t, helm(t, args...))
			install := objects(t, kustomize(t, c.install))
			undo := objects(t, kustomize(t, c.undo))

			// What only one of the two has: a namespace cannot be in its own
			// release; a key is a secret of the cluster; kubectl waits by itself.
			for _, key := range []string{"Secret samara/samara-swarm-key", "hook Job samara-setup/samara-undo", "hook Service samara-setup/samara-undo"} {
				if chart[key] == nil {
					t.Errorf("the chart has no %s", key)
				}
				delete(chart, key)
			}
			if install["Namespace /samara"] == nil {
				t.Error("kustomize makes no namespace samara")
			}
			delete(install, "Namespace /samara")

			const setup = "DaemonSet samara-setup/samara-setup"
			compare(t, "undo", chart["hook "+setup], undo[setup])
			delete(chart, "hook "+setup)
			for key, o := range normalised(install) {
				compare(t, key, chart[key], o)
				delete(chart, key)
			}
			for key := range chart {
				t.Errorf("%s is in the chart only", key)
			}
		})
	}
}

// hashed is the end that kustomize gives the name of a generated ConfigMap.
var hashed = regexp.MustCompile(`^(.+)-[a-z0-9]{10}$`)

// normalised has ConfigMaps by the names that their files give them.
func normalised(all map[string]*unstructured.Unstructured) map[string]*unstructured.Unstructured {
	out := map[string]*unstructured.Unstructured{}
	for key, o := range all {
		if m := hashed.FindStringSubmatch(key); m != nil && o.GetKind() == "ConfigMap" {
			key = m[1]
			o.SetName(hashed.FindStringSubmatch(o.GetName())[1])
		}
		out[key] = o
	}
	return out
}

// plain takes out what says who rendered it.
func plain(t *testing.T, o *unstructured.Unstructured) map[string]any {
	t.Helper()
	if o == nil {
		return nil
	}
	o = o.DeepCopy()
	labels := o.GetLabels()
	for _, l := range []string{"app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"} {
		delete(labels, l)
	}
	o.SetLabels(labels)
	annotations := o.GetAnnotations()
	for a := range annotations {
		if strings.HasPrefix(a, "helm.sh/") {
			delete(annotations, a)
		}
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	o.SetAnnotations(annotations)

	// A change of configuration rolls pods out by its checksum, or by a new name.
	pod := []string{"spec", "template"}
	unstructured.RemoveNestedField(o.Object, append(pod, "metadata", "annotations", "checksum/config")...)
	if a, _, _ := unstructured.NestedMap(o.Object, append(pod, "metadata", "annotations")...); len(a) == 0 {
		unstructured.RemoveNestedField(o.Object, append(pod, "metadata", "annotations")...)
	}
	if volumes, ok, _ := unstructured.NestedSlice(o.Object, append(pod, "spec", "volumes")...); ok {
		for _, v := range volumes {
			if name, ok, _ := unstructured.NestedString(v.(map[string]any), "configMap", "name"); ok {
				if m := hashed.FindStringSubmatch(name); m != nil {
					v.(map[string]any)["configMap"].(map[string]any)["name"] = m[1]
				}
			}
		}
		if err := unstructured.SetNestedSlice(o.Object, volumes, append(pod, "spec", "volumes")...); err != nil {
			t.Fatal(err)
		}
	}
	// Configuration files are compared by what they say.
	if data, ok, _ := unstructured.NestedStringMap(o.Object, "data"); ok {
		for file, text := range data {
			var v any
			if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
				t.Fatalf("%s: %v\n%s", file, err, text)
			}
			b, err := yaml.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			data[file] = string(b)
		}
		if err := unstructured.SetNestedStringMap(o.Object, data, "data"); err != nil {
			t.Fatal(err)
		}
	}
	return o.Object
}

func compare(t *testing.T, what string, fromChart, fromKustomize *unstructured.Unstructured) {
	t.Helper()
	show := func(o *unstructured.Unstructured) string {
		b, err := yaml.Marshal(plain(t, o))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	a, b := show(fromChart), show(fromKustomize)
	if a == b {
		return
	}
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	at := 0
	for at < min(len(la), len(lb)) && la[at] == lb[at] {
		at++
	}
	context := func(lines []string) string {
		return strings.Join(lines[min(max(at-4, 0), len(lines)):min(at+4, len(lines))], "\n")
	}
	t.Errorf("%s differs at line %d. The chart:\n%s\nkustomize:\n%s", what, at+1, context(la), context(lb))
}

func TestLint(t *testing.T) {
	for name, args := range values(t) {
		out, errs, err := run(t, "helm", append([]string{"lint", "--strict", "--quiet", "--kube-version", kubeVersion, chart}, args...)...)
		if err != nil {
			t.Errorf("helm lint with values %s: %v\n%s%s", name, err, out, errs)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	for _, c := range []struct{ set, says string }{
		{"peerd.zonee=a", "additional properties 'zonee' not allowed"},
		{"daemonset.enabled=true", "additional properties 'daemonset' not allowed"},
		{"setup.runtime=docker", "'/setup/runtime': value must be one of 'containerd', 'k3s', 'rke2', 'crio'"},
		{"setup.undoSeconds=2m", "'/setup/undoSeconds': got string, want integer"},
		{"setup.directory=etc/containerd", "'/setup/directory': 'etc/containerd' does not match"},
		{"peerd.cache.sizeLimit=10GB", "'/peerd/cache/sizeLimit': '10GB' does not match"},
		{"peerd.resources.limits.memory=much", "'/peerd/resources/limits/memory': 'much' does not match"},
		{"peerd.extraArgs={no-prefetch}", "'/peerd/extraArgs/0': 'no-prefetch' does not match"},
		{"seeder.persistence.enabled=never", "'/seeder/persistence/enabled': got string, want boolean"},
		{"seeder.urls={seeder:5000}", "'/seeder/urls/0': 'seeder:5000' does not match"},
		{"networkPolicy.upstreamPorts={70000}", "'/networkPolicy/upstreamPorts/0': maximum"},
		{"image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"},
	} {
		if _, errs, err := helmTemplate(t, "--set", c.set); err == nil || !strings.Contains(string(errs), c.says) {
			t.Errorf("--set %s: %v, %s; want %q", c.set, err, errs, c.says)
		}
	}
}

// The swarm key of the chart is one that libp2p reads, and no two are the same.
func TestSwarmKey(t *testing.T) {
	key := func() string {
		data, _, err := unstructured.NestedString(objects(t, helm(t))["Secret samara/samara-swarm-key"].Object, "data", "swarm.key")
		if err != nil {
			t.Fatal(err)
		}
		var text []byte
		if err := json.Unmarshal([]byte(`"`+data+`"`), &text); err != nil { // base64, as JSON has bytes
			t.Fatal(err)
		}
		return string(text)
	}
	a, b := key(), key()
	if !regexp.MustCompile(`^/key/swarm/psk/1\.0\.0/\n/base16/\n[0-9a-f]{64}\n$`).MatchString(a) {
		t.Errorf("%q", a)
	}
	if a == b {
		t.Error("a key that everybody has")
	}
}

// The page about values is made from what it is about.
func TestValuesPage(t *testing.T) {
	want, err := os.ReadFile(filepath.Join(root, "docs", "kubernetes-values.md"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ValuesPage(filepath.Join(chart, "values.schema.json"), filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("docs/kubernetes-values.md is not what the chart says: run `make values-page`")
	}
}
