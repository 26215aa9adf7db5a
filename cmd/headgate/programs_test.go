package main

import (
	"os"
	"testing"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/workers/connections"
)

// programs are the settings of all programs by their names, which are those of the folders in cmd.
func programs(t testing.TB) map[string]any {
	t.Helper()
	all := map[string]any{
		"headgate":           new(commands),
		"ingress":            new(ingress.Settings),
		"worker-connections": new(connections.Settings),
	}
	folders, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if f.IsDir() && all[f.Name()] == nil {
			t.Errorf("the program %s is not in this test", f.Name())
		}
	}
	return all
}

func TestBuiltInWorkersAreThoseWithAProgram(t *testing.T) {
	for _, w := range builtin {
		if programs(t)[w.part.name] == nil {
			t.Errorf("%s is built in, and there is no program of that name", w.part.name)
		}
	}
	for name := range programs(t) {
		if name == "headgate" || name == door.name {
			continue
		}
		found := false
		for _, w := range builtin {
			found = found || w.part.name == name
		}
		if !found {
			t.Errorf("the program %s is not built in: headgate dev does not run it", name)
		}
	}
}
