package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// stale returns the paths of files that were generated for workers which the list has no more.
func stale(root string, files map[string][]byte) ([]string, error) {
	there, err := filepath.Glob(filepath.Join(root, "deploy/nats/worker-*.conf"))
	if err != nil {
		return nil, err
	}
	var old []string
	for _, file := range there {
		name, err := filepath.Rel(root, file)
		if err != nil {
			return nil, err
		}
		if files[filepath.ToSlash(name)] == nil {
			old = append(old, file)
		}
	}
	return old, nil
}

// write writes the files whose text differs, removes the stale ones, and prints the name of each.
func write(root string, files map[string][]byte) error {
	old, err := stale(root, files)
	if err != nil {
		return err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return err
		}
		fmt.Println("removed", file)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file := filepath.Join(root, name)
		if had, err := os.ReadFile(file); err == nil && bytes.Equal(had, files[name]) {
			continue
		}
		// Containers read the files as other users, whatever the umask is.
		if err := errors.Join(os.WriteFile(file, files[name], 0o644), os.Chmod(file, 0o644)); err != nil {
			return err
		}
		fmt.Println("wrote", name)
	}
	return nil
}
