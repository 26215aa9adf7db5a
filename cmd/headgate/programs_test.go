package main

import (
	"os"
	"testing"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/workers/builtin"
	"github.com/headgate/headgate/workers/relay"
)

// programs are the settings of all programs by their names, which are those of the folders in cmd.
func programs(t testing.TB) map[string]any {
	t.Helper()
	all := map[string]any{
		"headgate":     new(commands),
		"ingress":      new(ingress.Settings),
		"worker-relay": new(relay.Settings),
	}
	for _, w := range builtin.Workers() {
		all[w.Program()] = w.Settings()
	}
	return all
}

func TestBuiltin_ListsTheWorkersThatHaveAProgram(t *testing.T) {
	t.Parallel()
	folders, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	missing := programs(t)
	for _, f := range folders {
		if missing[f.Name()] == nil {
			t.Errorf("cmd/%s is no built-in worker, and no other program: add it to workers/builtin", f.Name())
		}
		delete(missing, f.Name())
	}
	for name := range missing {
		t.Errorf("workers/builtin lists %s, and cmd/%s does not exist", name, name)
	}
}
