// Command images writes the images of a test cluster as archives that ctr
// imports and crane pushes: the daemons as a release has them, a pause that
// does nothing, and images of random bytes to pull.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	bin := flag.String("bin", "bin", "where peerd and seeder are")
	out := flag.String("out", ".", "directory for the archives")
	pause := flag.Bool("pause", false, "be the pause: wait for a signal")
	flag.Parse()
	if *pause {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		return
	}
	if err := all(*bin, *out); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// all writes the archives. v1 and v2 of the daemons differ by a byte, as versions do.
func all(bin, out string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	pause := []string{"/pause", "-pause"}
	for _, i := range []struct {
		ref, program string
		entry        []string
		random       int
	}{
		{"registry.k8s.io/pause:3.10", self, pause, 0},
		{"ghcr.io/samara-p2p/peerd:v0.1.0", filepath.Join(bin, "peerd"), []string{"/usr/bin/peerd"}, 0},
		{"ghcr.io/samara-p2p/seeder:v0.1.0", filepath.Join(bin, "seeder"), []string{"/usr/bin/seeder"}, 0},
		{"registry.lab.test/peerd:v2", filepath.Join(bin, "peerd"), []string{"/usr/bin/peerd"}, 1},
		{"registry.lab.test/seeder:v2", filepath.Join(bin, "seeder"), []string{"/usr/bin/seeder"}, 1},
		{"registry.lab.test/app:1", self, pause, 30 << 20},
		{"registry.lab.test/app:2", self, pause, 40 << 20},
	} {
		if err := write(out, i.ref, i.program, i.entry, i.random); err != nil {
			return fmt.Errorf("%s: %w", i.ref, err)
		}
	}
	return nil
}

// write makes one image, as the archive PROGRAM_TAG.tar of its reference.
func write(out, ref, program string, entry []string, random int) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	noise := make([]byte, random)
	rand.Read(noise)
	for _, f := range []struct {
		name string
		b    []byte
	}{{strings.TrimPrefix(entry[0], "/"), content}, {"noise", noise}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.b))}); err != nil {
			return err
		}
		if _, err := w.Write(f.b); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	if img, err = mutate.ConfigFile(img, withConfig(img, entry)); err != nil {
		return err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(filepath.Join(out, strings.ReplaceAll(path.Base(ref), ":", "_")+".tar"), tag, img)
}

func withConfig(img v1.Image, entry []string) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		panic(err) // it was made here
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.Config = v1.Config{User: "65532", Entrypoint: entry, Env: []string{"PATH=/usr/bin"}, WorkingDir: "/"}
	return c
}
