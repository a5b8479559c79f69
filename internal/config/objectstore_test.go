package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/pkg/objectstore"
)

func TestCheckObjectStore(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	for path, text := range map[string]string{
		good: "[default]\naws_access_key_id = someone\naws_secret_access_key = hush\n",
		bad:  "[default]\naws_access_key_id = someone\naws_secret = hush\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		args []string
		want string // part of the problem; "" for none
	}{
		{"nothing", nil, ""},
		{"a bucket", []string{"--object-store", "s3://images"}, ""},
		{"all", []string{"--object-store", "s3://images/prod/eu", "--object-store-endpoint", "http://10.0.0.1:9000", "--object-store-region", "x",
			"--object-store-path-style", "--object-store-sse", "kms:key-1", "--object-store-credentials", good}, ""},
		{"no URL", []string{"--object-store", "images"}, "does not begin with s3://"},
		{"no bucket", []string{"--object-store", "s3:///prod"}, `bucket ""`},
		{"a path", []string{"--object-store", "s3://images/a/../b"}, "prefix"},
		{"settings of none", []string{"--object-store-endpoint", "http://h"}, "--object-store: not given"},
		{"a password", []string{"--object-store", "s3://images", "--object-store-endpoint", "http://me:hush@h"}, "it holds credentials"},
		{"a bucket in the endpoint", []string{"--object-store", "s3://images", "--object-store-endpoint", "http://h/images"}, "more than a host"},
		{"encryption", []string{"--object-store", "s3://images", "--object-store-sse", "aes"}, "want s3, kms or kms:KEY"},
		{"half of the credentials", []string{"--object-store", "s3://images", "--object-store-credentials", bad}, "not in the form of"},
		{"no credentials", []string{"--object-store", "s3://images", "--object-store-credentials", filepath.Join(dir, "none")}, "no such file"},
		{"no authorities", []string{"--object-store", "s3://images", "--object-store-ca", filepath.Join(dir, "none")}, "--object-store-ca"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, l := loadSeeder(t, c.args...)
			err := l.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Errorf("a secret is in the text: %v", err)
			}
		})
	}
	seeder, _ := loadSeeder(t, "--object-store", "s3://images/prod/", "--object-store-sse", "kms:k")
	o, err := seeder.ObjectStore.Options()
	if want := (objectstore.SSE{KMS: true, KMSKey: "k"}); err != nil || o.Location.String() != "s3://images/prod" || o.SSE != want {
		t.Errorf("%+v, %v", o, err)
	}
	warned := false
	for _, w := range seeder.Warnings() {
		warned = warned || w.Where == "--quota"
	}
	if !warned {
		t.Error("nothing is said of a cache without a bound")
	}
}
