package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/docker/go-units"

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

// docs/operate.md says how much memory headgate watch needs: as much as its index and 96 MiB.
func TestDeploy_HasMemoryForTheIndexOfWatch(t *testing.T) {
	t.Parallel()
	flags, err := process.Flags(new(watchCmd))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(flags, func(f *kong.Flag) bool { return f.Name == "index-memory" })
	index, err := units.RAMInBytes(flags[at].Default)
	if err != nil || index != serveIndex {
		t.Fatalf("the default of --index-memory is %s, %v; want that of headgate serve, %d bytes", flags[at].Default, err, serveIndex)
	}
	for file, limit := range map[string]string{
		"../../docker-compose.yml":                    `\n  watch:\n(?:    .*\n)*?    mem_limit: (\d+[mg])`,
		"../../deploy/k8s/base/watch/deployment.yaml": `limits: \{ memory: (\d+[MG])i`,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(limit).FindStringSubmatch(string(text))
		if found == nil {
			t.Errorf("%s has no limit of the memory of watch", file)
			continue
		}
		n, err := units.RAMInBytes(found[1])
		if want := index + 96<<20; err != nil || n < want {
			t.Errorf("%s gives watch %s, %v; want %d bytes or more", file, found[1], err, want)
		}
	}
}
