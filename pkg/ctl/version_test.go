package ctl_test

import (
	"runtime/debug"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ctl"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	setting := func(pairs ...string) (all []debug.BuildSetting) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, debug.BuildSetting{Key: pairs[i], Value: pairs[i+1]})
		}
		return all
	}
	main := debug.Module{Version: "v1.2.3"}
	for want, info := range map[string]*debug.BuildInfo{
		"overlayctl v1.2.3, revision abc of 2026-01-02T03:04:05Z, go1.26 linux/arm64\n": {GoVersion: "go1.26", Main: main, Settings: setting(
			"vcs.revision", "abc", "vcs.time", "2026-01-02T03:04:05Z", "vcs.modified", "false", "GOOS", "linux", "GOARCH", "arm64")},
		"overlayctl v1.2.3, revision abc of then, changed, go1.26 linux/amd64\n": {GoVersion: "go1.26", Main: main, Settings: setting(
			"vcs.revision", "abc", "vcs.time", "then", "vcs.modified", "true", "GOOS", "linux", "GOARCH", "amd64")},
		"overlayctl v1.2.3, go1.26 windows/amd64\n": {GoVersion: "go1.26", Main: main, Settings: setting("GOOS", "windows", "GOARCH", "amd64")},
	} {
		var out strings.Builder
		if err := ctl.Version(&out, "overlayctl", info); err != nil || out.String() != want {
			t.Errorf("got %q, %v, want %q", out.String(), err, want)
		}
	}
}
