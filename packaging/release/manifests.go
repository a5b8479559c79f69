package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// imageRepository is where manifests expect the images of a release.
const imageRepository = "ghcr.io/samara-p2p"

var (
	imageLine  = regexp.MustCompile(`(?m)^\s*(?:- )?image: *"?([^\s"]+)`)
	appVersion = regexp.MustCompile(`(?m)^appVersion: *"?([^\s"]+)`)
	registry   = regexp.MustCompile(`(?m)^  registry: *"?([^\s"]+)`)
	released   = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+$`)
)

// namedInManifests is the version whose images the manifests below dir name, which
// has to be the same everywhere.
func namedInManifests(dir string, daemons []string) (string, error) {
	chart, err := os.ReadFile(filepath.Join(dir, "chart", "Chart.yaml"))
	if err != nil {
		return "", err
	}
	m := appVersion.FindSubmatch(chart)
	if m == nil {
		return "", fmt.Errorf("%s/chart/Chart.yaml has no appVersion", dir)
	}
	version := string(m[1])
	values, err := os.ReadFile(filepath.Join(dir, "chart", "values.yaml"))
	if err != nil {
		return "", err
	}
	if m := registry.FindSubmatch(values); m == nil || string(m[1]) != imageRepository {
		return "", fmt.Errorf("%s/chart/values.yaml: image.registry is not %s", dir, imageRepository)
	}
	found := map[string]bool{}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".yaml" || strings.HasPrefix(path, filepath.Join(dir, "chart")) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range imageLine.FindAllSubmatch(text, -1) {
			image := string(m[1])
			name, tag, _ := strings.Cut(strings.TrimPrefix(image, imageRepository+"/"), ":")
			if !slices.Contains(daemons, name) {
				return fmt.Errorf("%s: the image %s is none that a release has", path, image)
			}
			if tag != version {
				return fmt.Errorf("%s: the image %s is not of %s, the chart's appVersion", path, image, version)
			}
			found[name] = true
		}
		return nil
	})
	if err == nil && len(found) < len(daemons) {
		err = fmt.Errorf("%s: not every one of %v is there", dir, daemons)
	}
	return version, err
}

// checkManifests refuses a release whose manifests would start another one. What is
// no release, such as the state between two, may name the last.
func checkManifests(dir, version string, daemons []string) error {
	named, err := namedInManifests(dir, daemons)
	if err != nil || !released.MatchString(version) || named == version {
		return err
	}
	return fmt.Errorf("%s/ names images of %s, this is %s: set appVersion in chart/Chart.yaml and the tags of images to it, and commit", dir, named, version)
}
