package ctl

import (
	"fmt"
	"io"
	"runtime/debug"
)

// Version writes which source a program was built from, and by what.
func Version(out io.Writer, program string, info *debug.BuildInfo) error {
	settings := make(map[string]string, len(info.Settings))
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	line := fmt.Sprintf("%s %s", program, info.Main.Version)
	if revision := settings["vcs.revision"]; revision != "" {
		line += fmt.Sprintf(", revision %s of %s", revision, settings["vcs.time"])
		if settings["vcs.modified"] == "true" {
			line += ", changed"
		}
	}
	if _, err := fmt.Fprintf(out, "%s, %s %s/%s\n", line, info.GoVersion, settings["GOOS"], settings["GOARCH"]); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return nil
}
