package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers/connections"
)

// The settings in the README are the flags of the programs. UPDATE=1 writes them there.
func TestREADMEHasEverySetting(t *testing.T) {
	const name, from, to = "../../README.md", "-run TestREADME` -->\n", "<!-- end of settings -->"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), from)
	table, after, okToo := strings.Cut(rest, to)
	if !ok || !okToo {
		t.Fatalf("%s has no place for the settings", name)
	}
	want := settingsTable(t)
	if table == want {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("the settings in %s are not those of the programs: run UPDATE=1 go test ./cmd/headgate -run TestREADME", name)
	}
	if err := os.WriteFile(name, []byte(before+from+want+to+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func settingsTable(t *testing.T) string {
	t.Helper()
	type row struct {
		env, value, help string
		of               []string
	}
	rows := map[string]*row{}
	var order []string
	for _, program := range []struct {
		name     string
		settings any
	}{{"ingress", new(ingress.Settings)}, {"worker", new(connections.Settings)}} {
		flags, err := process.Flags(program.settings)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flags {
			if f.Name == "version" {
				continue
			}
			// A setting that two programs explain differently stands twice.
			key := f.Name + f.Help
			if rows[key] == nil {
				rows[key] = &row{env: strings.Join(f.Envs, " "), value: f.Default, help: f.Help}
				order = append(order, key)
			}
			rows[key].of = append(rows[key].of, program.name)
			rows[key].env = strings.Join(f.Envs, " ")
		}
	}
	var b strings.Builder
	b.WriteString("\n| flag | environment | default | of | |\n|---|---|---|---|---|\n")
	for _, key := range order {
		r := rows[key]
		value := r.value
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s | %s |\n",
			strings.TrimSuffix(key, r.help), r.env, value, strings.Join(r.of, ", "), strings.ReplaceAll(r.help, "|", "\\|"))
	}
	b.WriteString("\n")
	return b.String()
}

// The worker in the README is the one that compiles in package workers.
func TestREADMEShowsAWorkerThatCompiles(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../workers/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```go\n")
	shown, _, ok := strings.Cut(rest, "```")
	if !ok || !strings.Contains(string(example), shown) {
		t.Error("the worker in README.md is not the one in workers/example_test.go: copy it from there")
	}
	if !strings.Contains(string(text), `process.Main("worker-bookkeeper"`) {
		t.Error("README.md does not show the worker's main")
	}
}
