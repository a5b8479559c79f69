package manifests

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What is rendered is what the programs take: their flags, their configuration,
// and setup on the files of a node, which undo gives back.
func TestPrograms(t *testing.T) {
	program(t, "peerd")
	program(t, "seeder")
	key := filepath.Join(t.TempDir(), "swarm.key")
	write(t, key, "/key/swarm/psk/1.0.0/\n/base16/\n"+strings.Repeat("5a", 32)+"\n", 0o600)
	for name, rendered := range renderings(t) {
		t.Run(name, func(t *testing.T) {
			var pods []corev1.PodSpec
			config := map[string]string{}
			for _, doc := range documents(rendered) {
				o, err := decode(doc)
				if err != nil {
					t.Fatal(err)
				}
				if m, ok := o.(*corev1.ConfigMap); ok {
					maps.Copy(config, m.Data)
				}
				if pod, _ := podOf(o); pod != nil {
					pods = append(pods, pod.Spec)
				}
			}
			for _, pod := range pods {
				for _, c := range append(pod.InitContainers, pod.Containers...) {
					tryContainer(t, c, config, key)
				}
			}
		})
	}
}

func tryContainer(t *testing.T, c corev1.Container, config map[string]string, key string) {
	t.Helper()
	dir := t.TempDir()
	daemon, _, _ := strings.Cut(path.Base(c.Image), ":")
	var args []string
	for _, a := range c.Args {
		flag, value, _ := strings.Cut(a, "=")
		switch flag {
		case "--config":
			text, ok := config[path.Base(value)]
			if !ok {
				t.Errorf("container %s: %s is in no ConfigMap", c.Name, value)
			}
			a = flag + "=" + filepath.Join(dir, path.Base(value))
			write(t, filepath.Join(dir, path.Base(value)), text, 0o600)
		case "--swarm-key":
			a = flag + "=" + key
		case "--docker-config":
			a = flag + "=" + dir
		case "--mirror": // there is no DNS for its name
			a = "--mirror=http://127.0.0.1:5050"
		}
		args = append(args, a)
	}
	switch args[0] {
	case "serve":
		args = append([]string{"config", "check"}, args[1:]...)
	case "setup":
		if c.Name == "apply" || c.Name == "undo" {
			trySetup(t, daemon, c, args)
			return
		}
		args = append(args, "--help") // it would wait
	}
	if out, errs, err := run(t, daemon, args...); err != nil {
		t.Errorf("%s %v: %v\n%s%s", daemon, args, err, out, errs)
	}
}

// trySetup runs setup on a node's files, which are those that are mounted.
func trySetup(t *testing.T, daemon string, c corev1.Container, args []string) {
	t.Helper()
	node := t.TempDir()
	mount := strings.TrimPrefix(c.VolumeMounts[0].MountPath, "/host")
	dir := filepath.Join(node, mount)
	if err := os.MkdirAll(filepath.Join(dir, "certs.d", "ghcr.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.toml"), "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \""+mount+"/certs.d\"\n", 0o644)
	write(t, filepath.Join(dir, "certs.d", "ghcr.io", "hosts.toml"), "server = \"https://ghcr.io\"\n", 0o644)
	write(t, filepath.Join(dir, "registries.conf"), "unqualified-search-registries = [\"docker.io\"]\n", 0o644)
	before := tree(t, node)

	args = slices.Clone(args)
	args[slices.Index(args, "--root=/host")] = "--root=" + node
	if out, errs, err := run(t, daemon, args...); err != nil {
		t.Errorf("%s %v: %v\n%s%s", daemon, args, err, out, errs)
	}
	if c.Name == "apply" {
		if maps.Equal(before, tree(t, node)) {
			t.Error("setup apply changed nothing")
		}
		// As the object that undoes it is told.
		undo := append([]string{"setup", "undo"}, args[2:4]...)
		if out, errs, err := run(t, daemon, undo...); err != nil {
			t.Errorf("%s %v: %v\n%s%s", daemon, undo, err, out, errs)
		}
	}
	after := tree(t, node)
	for p, was := range before {
		if after[p] != was {
			t.Errorf("%s was %q and is %q", p, was, after[p])
		}
		delete(after, p)
	}
	for p := range after {
		t.Errorf("%s is left", p)
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// tree is what lies below a directory: modes, and what files say.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		if st.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text = string(b)
		}
		all[strings.TrimPrefix(p, root)] = st.Mode().String() + " " + text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
