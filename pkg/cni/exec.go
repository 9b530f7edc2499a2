package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// execPlugin runs a delegated plugin as the specification says (section 4):
// found in CNI_PATH, with our environment but for the verb. The CNI library's
// own way of doing that links tracing and HTTP, which cost every pod a third of
// the plugin's start-up time.
func execPlugin(ctx context.Context, plugin, verb string, stdin []byte, stderr io.Writer) ([]byte, error) {
	path, err := findPlugin(plugin, os.Getenv("CNI_PATH"))
	if err != nil {
		return nil, err
	}
	var stdout bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, stderr
	err = cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var e types.Error
	if json.Unmarshal(stdout.Bytes(), &e) == nil && e.Msg != "" {
		return nil, &e
	}
	return nil, fmt.Errorf("%w; its output: %q", err, stdout.String())
}

// errNoPlugin: the plugin's executable isn't there.
var errNoPlugin = errors.New("plugin not found")

func findPlugin(plugin, path string) (string, error) {
	if plugin == "" || strings.ContainsRune(plugin, filepath.Separator) {
		return "", fmt.Errorf("%w: %q is no name of a plugin", errNoPlugin, plugin)
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, plugin)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w: no %q in CNI_PATH %q", errNoPlugin, plugin, path)
}
