package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/process"
)

// variables are the environment variables that some program reads.
func variables(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for name, grammar := range programs(t) {
		flags, err := process.Flags(grammar)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range flags {
			for _, variable := range f.Envs {
				all[variable] = true
			}
		}
	}
	return all
}

func TestDeploy_SetsVariablesThatAProgramReads(t *testing.T) {
	t.Parallel()
	known := variables(t)
	files := []string{"../../docker-compose.yml", "../../deploy/serve/compose.yml", "../../deploy/relay/compose.yml", "../../deploy/serve/headgate.service"}
	err := filepath.WalkDir("../../deploy/k8s", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".yaml") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`HEADGATE_[A-Z_]+`).FindAllString(string(text), -1) {
			seen++
			if !known[name] {
				t.Errorf("%s sets %s, which no program reads", file, name)
			}
		}
	}
	if seen == 0 {
		t.Errorf("no file of %d sets a variable", len(files))
	}
}
