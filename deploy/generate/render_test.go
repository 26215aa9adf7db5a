package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

const root = "../.."

func TestRender_IsWhatIsCommitted(t *testing.T) {
	files, err := Render(root)
	if err != nil {
		t.Fatal(err)
	}
	old, err := stale(root, files)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range old {
		t.Errorf("%s is of no worker in workers/builtin: run make generate", name)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what is generated from the sources: run make generate", name)
		}
	}
}
