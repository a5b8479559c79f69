package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the Makefile:
// -ldflags "-X github.com/samara-p2p/samara/internal/cli.version=v1.2.3".
var version string

// Version is the release, else what the Go toolchain knows of the build.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return versionOf(info)
}

func versionOf(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := setting(info, "vcs.revision"), ""
	if setting(info, "vcs.modified") == "true" {
		dirty = "-dirty"
	}
	if rev == "" {
		return "devel"
	}
	return "devel-" + rev[:min(len(rev), 12)] + dirty
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

func longVersion(daemon string) string {
	return fmt.Sprintf("%s %s (%s, %s/%s)", daemon, Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
