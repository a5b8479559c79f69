package registry

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform is an operating system, an architecture and a variant of it, as in
// image-spec.
type Platform = ocispec.Platform

// HostPlatform is this process's. Variants are not told apart: on arm the
// newest is assumed, and Select then also takes older ones.
func HostPlatform() Platform {
	p := Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	if p.Architecture == "arm" {
		p.Variant = "v7"
	}
	return p
}

// ParsePlatform reads "linux/arm64" or "linux/arm/v7".
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, fmt.Errorf("platform %q: want os/architecture or os/architecture/variant", s)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return normalize(p), nil
}

// Select returns the children of an index that a client on p may go on to
// read, best first: first those of p's platform (an older variant where p's
// own is missing), then those that name no platform and may contain it
// (nested indexes). Attestations ("unknown/unknown") and other platforms are
// left out. A client reads the first; more than one of equal worth is rare
// (two compressions of one image).
func Select(children []Descriptor, p Platform) []Descriptor {
	type ranked struct {
		d    Descriptor
		rank int
	}
	var list []ranked
	for _, c := range children {
		if rank, ok := match(c, p); ok {
			list = append(list, ranked{c, rank})
		}
	}
	slices.SortStableFunc(list, func(a, b ranked) int { return a.rank - b.rank })
	out := make([]Descriptor, len(list))
	for i, r := range list {
		out[i] = r.d
	}
	return out
}

const (
	rankOlder   = 10 // + how many variants older
	rankUnnamed = 100
)

// match ranks a child for p; 0 is best.
func match(c Descriptor, p Platform) (int, bool) {
	if c.Platform == nil || c.Platform.OS == "" && c.Platform.Architecture == "" {
		return rankUnnamed, true
	}
	have, want := normalize(*c.Platform), normalize(p)
	if have.OS != want.OS {
		return 0, false
	}
	if have.Architecture != want.Architecture {
		// 64-bit ARM hosts run 32-bit images, and amd64 hosts 386 ones, but no
		// client picks them by itself.
		return 0, false
	}
	if have.Variant == want.Variant {
		return 0, true
	}
	h, okh := variantNumber(have)
	w, okw := variantNumber(want)
	if okh && okw && h < w {
		return rankOlder + w - h, true
	}
	return 0, false
}

// variantNumber orders the variants of one architecture. In normal form no
// variant is v1 on amd64 and v8 on arm64.
func variantNumber(p Platform) (int, bool) {
	v := p.Variant
	switch {
	case v == "" && p.Architecture == "amd64":
		return 1, true
	case v == "" && p.Architecture == "arm64":
		return 8, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(v, "v"))
	return n, err == nil && n > 0 && n < 50
}

// normalize follows containerd/platforms: names used by uname and others map
// to Go's, and the default variant of an architecture has one spelling.
func normalize(p Platform) Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386":
		p.Architecture = "386"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch p.Architecture {
	case "amd64":
		if p.Variant == "v1" {
			p.Variant = ""
		}
	case "arm64":
		if p.Variant == "8" || p.Variant == "v8" {
			p.Variant = ""
		}
	case "arm":
		switch p.Variant {
		case "", "7":
			p.Variant = "v7"
		case "5", "6", "8":
			p.Variant = "v" + p.Variant
		}
	}
	return p
}

// ParsePlatforms reads those that images are chosen for: by itself this host's;
// nil stands for "all".
func ParsePlatforms(names []string) ([]Platform, error) {
	if len(names) == 0 {
		return []Platform{HostPlatform()}, nil
	}
	if slices.Contains(names, "all") {
		return nil, nil
	}
	list := make([]Platform, len(names))
	for i, s := range names {
		var err error
		if list[i], err = ParsePlatform(s); err != nil {
			return nil, err
		}
	}
	return list, nil
}
