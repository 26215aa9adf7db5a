package builtin

import (
	"context"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers"
)

func TestWorkers_AreSortedAndValid(t *testing.T) {
	var names []string
	for _, w := range Workers() {
		names = append(names, w.Spec.Name)
		if err := w.Spec.Validate(); err != nil {
			t.Error(err)
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("the workers are %q; want them sorted and each once", names)
	}
}

func TestWorker_NamesTheVariablesThatItMisses(t *testing.T) {
	type settings struct {
		workers.Settings `embed:""`

		DatabaseURL string `name:"database-url" required:"" help:"The database."`
	}
	w := worker(workers.Worker{Name: "bookings"}, func(context.Context, *settings, *process.Process) error { return nil })
	if got := w.Missing(); !slices.Equal(got, []string{"HEADGATE_DATABASE_URL"}) {
		t.Errorf("Missing() = %q; want the variable of --database-url", got)
	}
	if err := w.Run(t.Context(), nil, process.New(w.Program(), zap.NewNop())); err == nil || !strings.Contains(err.Error(), "--database-url") {
		t.Errorf("Run() = %v; want an error that names --database-url", err)
	}
	t.Setenv("HEADGATE_DATABASE_URL", "postgres://localhost/bookings")
	if got := w.Missing(); len(got) > 0 {
		t.Errorf("Missing() = %q; want none, the variable is set", got)
	}
	if err := w.Run(t.Context(), nil, process.New(w.Program(), zap.NewNop())); err != nil {
		t.Errorf("Run() = %v", err)
	}
}
