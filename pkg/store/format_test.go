package store_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// TestFormat holds docs/store.md: the example there, byte for byte.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{BootID: "6d3f1c0e-0000-4000-8000-000000000000"})
	d := digest.FromString("hello")
	b, err := s.Create(d, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if _, err := b.WriteRaw(0, []byte("hello"), true); err != nil {
		t.Fatal(err)
	}
	if err := b.SetRuns([][]byte{[]byte("run")}); err != nil {
		t.Fatal(err)
	}
	if err := b.SetMeta(store.Meta{MediaType: "text/plain", Sources: []string{"docker.io/library/hello"}}); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "blobs", "sha256", "2c", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
	files := func(want map[string]string) {
		t.Helper()
		for path, want := range want {
			got, err := os.ReadFile(path)
			if err != nil || string(got) != want {
				t.Errorf("%s is %q, %v; want %q", path, got, err, want)
			}
		}
		entries, err := os.ReadDir(at)
		if err != nil || len(entries) != len(want)-2 {
			t.Errorf("%s holds %v, %v", at, entries, err)
		}
	}
	runs, _ := hex.DecodeString("73616d6172612d72756e7320310a" + "00000003" + "5647f659" + "72756e")
	want := map[string]string{
		filepath.Join(dir, "version"): "samara-store 1\n",
		filepath.Join(dir, "boot"):    "6d3f1c0e-0000-4000-8000-000000000000\n",
		filepath.Join(at, "meta"): `{"version":1,"digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5,` +
			`"mediaType":"text/plain","sources":["docker.io/library/hello"]}` + "\n",
		filepath.Join(at, "data.part"): "hello",
		filepath.Join(at, "pieces"):    "u",
		filepath.Join(at, "runs"):      string(runs),
	}
	files(want)
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	delete(want, filepath.Join(at, "data.part"))
	delete(want, filepath.Join(at, "pieces"))
	want[filepath.Join(at, "data")] = "hello"
	files(want)
}

func FuzzRuns(f *testing.F) {
	whole := store.EncodeRuns([][]byte{[]byte("one"), nil, []byte("three")})
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte("samara-runs 1\n\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		envelopes, good := store.DecodeRuns(b)
		if good > len(b) {
			t.Fatalf("%d good bytes of %d", good, len(b))
		}
		if good == 0 {
			if envelopes != nil {
				t.Fatal("envelopes out of nothing")
			}
			return
		}
		// What was accepted is exactly what would be written, so that frames
		// can be appended behind it.
		if again := store.EncodeRuns(envelopes); !bytes.Equal(again, b[:good]) {
			t.Fatalf("%x was read, %x would be written", b[:good], again)
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"version":1,"digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5}`))
	f.Add([]byte(`{"version":1,"digest":"../..","size":-1,"sources":["","a","a"]}`))
	f.Add([]byte(`{"version":1,"digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5,"kept":true}`))
	f.Add([]byte("{"))
	d := digest.FromString("hello")
	f.Fuzz(func(t *testing.T, b []byte) {
		size, m, kept, err := store.DecodeMeta(d, b)
		if err != nil {
			return
		}
		if size < 0 || size > piece.MaxBlobSize || len(m.Sources) > 8 {
			t.Fatalf("%d bytes, %+v", size, m)
		}
		size2, m2, kept2, err := store.DecodeMeta(d, store.EncodeMeta(d, size, m, kept))
		if err != nil || size2 != size || kept2 != kept || m2.MediaType != m.MediaType || !slices.Equal(m2.Sources, m.Sources) {
			t.Fatalf("%d %+v became %d %+v, %v", size, m, size2, m2, err)
		}
	})
}
