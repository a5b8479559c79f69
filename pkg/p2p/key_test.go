package p2p

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.key")
	a, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadOrCreateKey(path)
	if err != nil || !a.Equals(b) {
		t.Errorf("another identity after a restart: %v", err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}

	swarm := filepath.Join(dir, "swarm.key")
	psk, err := CreateSwarmKey(swarm)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadSwarmKey(swarm)
	if err != nil || string(again) != string(psk) || len(psk) != 32 {
		t.Errorf("read back %d bytes: %v", len(again), err)
	}
	if _, err := CreateSwarmKey(swarm); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwriting: %v", err)
	}
	text, _ := os.ReadFile(swarm)
	if !strings.HasPrefix(string(text), "/key/swarm/psk/1.0.0/\n/base16/\n") || len(text) != 31+64+1 {
		t.Errorf("format %q", text[:31])
	}
	if fp := Fingerprint(psk); len(fp) != 16 || strings.Contains(string(text), fp) || fp == Fingerprint(testPSK(1)) || Fingerprint(nil) != "open" {
		t.Errorf("fingerprint %s", fp)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

func TestKeyFileErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(p, mode)
		return p
	}
	good := "/key/swarm/psk/1.0.0/\n/base16/\n" + strings.Repeat("ab", 32) + "\n"
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"identity for all":    {second(LoadOrCreateKey(write("a", "x", 0o644))), "chmod 600"},
		"identity damaged":    {second(LoadOrCreateKey(write("b", "x", 0o600))), "damaged"},
		"identity in nowhere": {second(LoadOrCreateKey(filepath.Join(dir, "no", "such"))), "no such file"},
		"swarm key absent":    {second(LoadSwarmKey(filepath.Join(dir, "none"))), "no such file"},
		"swarm key garbage":   {second(LoadSwarmKey(write("c", "hello", 0o600))), "swarm.key format"},
		"swarm key short":     {second(LoadSwarmKey(write("d", good[:60], 0o600))), "swarm.key format"},
		"swarm key writable":  {second(LoadSwarmKey(write("e", good, 0o666))), "chmod 600"},
		"swarm key huge":      {second(LoadSwarmKey(write("f", strings.Repeat("x", 1<<20), 0o600))), "is no key"},
		"mounted secret":      {second(LoadSwarmKey(write("g", good, 0o440))), ""},
	} {
		if c.want == "" && c.err != nil || c.want != "" && (c.err == nil || !strings.Contains(c.err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, c.err, c.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }
