package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers/builtin"
	"github.com/headgate/headgate/workers/relay"
)

// docs/settings.md lists the flags of the programs. UPDATE=1 writes it.
func TestSettings_AreInTheDocumentation(t *testing.T) {
	t.Parallel()
	const name = "../../docs/settings.md"
	want := settingsPage(t)
	have, err := os.ReadFile(name)
	if err == nil && string(have) == want {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("%s does not list the settings of the programs: run UPDATE=1 go test ./cmd/headgate -run TestSettings", name)
	}
	if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func settingsPage(t *testing.T) string {
	t.Helper()
	flags, err := process.Flags(new(serveCmd))
	if err != nil {
		t.Fatal(err)
	}
	ofServe := map[string]bool{}
	for _, f := range flags {
		ofServe[f.Name+f.Help] = true
	}
	programs := []flagSet{{"ingress", new(ingress.Settings)}, {"serve", new(serveCmd)}}
	for i, w := range builtin.Workers() {
		if i == 0 {
			programs = append(programs, flagSet{everyWorker, w.Settings()})
		} else {
			programs = append(programs, flagSet{w.Program(), w.Settings()})
		}
	}
	programs = append(programs, flagSet{"worker-relay", new(relay.Settings)})
	return `# Settings

<!-- Written by UPDATE=1 go test ./cmd/headgate -run TestSettings -->

Every setting is a flag and an environment variable; the flag wins. A variable that does not parse ends the program with
exit 2. An unknown variable whose name begins with ` + "`HEADGATE_`" + ` is a warning at the start.

## Ingress, workers and headgate serve

` + "`headgate serve`" + ` is serve. The workers that it runs read their variables.

` + settingsTable(t, func(*kong.Flag) bool { return true }, programs...) + `
## headgate

` + "`--help`" + ` after a command lists its flags. These have a variable:

` + settingsTable(t, func(f *kong.Flag) bool { return len(f.Envs) > 0 && !ofServe[f.Name+f.Help] }, flagSet{"headgate", new(commands)})
}

// everyWorker is the name of all workers in the table. The flags of the first one are those of every worker.
const everyWorker = "worker"

// A flagSet is a program and its settings.
type flagSet struct {
	name     string
	settings any
}

// settingsTable is a table in Markdown of the flags that keep selects, each once with the programs that have it. A flag
// that two programs explain differently is in it twice.
func settingsTable(t *testing.T, keep func(*kong.Flag) bool, programs ...flagSet) string {
	t.Helper()
	type row struct {
		flag *kong.Flag
		of   []string
	}
	var rows []*row
	byKey := map[string]*row{}
	for _, program := range programs {
		flags, err := process.Flags(program.settings)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flags {
			if f.Name == "version" || !keep(f) {
				continue
			}
			r := byKey[f.Name+f.Help]
			if r == nil {
				r = &row{flag: f}
				byKey[f.Name+f.Help] = r
				rows = append(rows, r)
			}
			if len(r.of) == 0 || r.of[len(r.of)-1] != program.name && r.of[len(r.of)-1] != everyWorker {
				r.of = append(r.of, program.name)
			}
		}
	}
	var b strings.Builder
	b.WriteString("| flag | environment | default | program | |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| `--%s` | %s | %s | %s | %s |\n", r.flag.Name, code(strings.Join(r.flag.Envs, " ")), code(r.flag.Default),
			strings.Join(r.of, ", "), strings.ReplaceAll(r.flag.Help, "|", "\\|"))
	}
	return b.String()
}

// code is text as code in Markdown.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
