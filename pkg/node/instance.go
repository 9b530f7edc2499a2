package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Instance returns what tells this machine from others of the same name: a
// random text, kept in the data directory since the first time.
func Instance(dataDir string) (string, error) {
	path := filepath.Join(dataDir, "instance")
	for {
		text, err := os.ReadFile(path)
		if instance := strings.TrimSpace(string(text)); err == nil && instance != "" {
			return instance, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read instance: %w", err)
		}
		if err := writeInstance(dataDir, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("write instance: %w", err)
		}
	}
}

// writeInstance makes the file, whole or not at all; another process may be
// faster.
func writeInstance(dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".instance-*")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(rand.Text() + "\n")
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Link(temp.Name(), path)
	}
	return errors.Join(err, os.Remove(temp.Name()))
}
