// Package builtin lists the workers that come with Headgate. Everything that runs and watches them follows from this
// list: headgate provision, headgate serve and headgate dev read it, and make generate writes it into the deployment's files.
// docs/add-a-worker.md says how to add one.
package builtin

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/connections"
	"github.com/headgate/headgate/workers/reads"
	"github.com/headgate/headgate/workers/writes"
)

// Workers returns the built-in workers, sorted by name.
func Workers() []Worker {
	all := []Worker{
		worker(connections.Worker(connections.Store{}), connections.Run),
		worker(reads.Worker(reads.Store{}), reads.Run),
		worker(writes.Worker(writes.Store{}), writes.Run),
	}
	slices.SortFunc(all, func(a, b Worker) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	return all
}

// A Worker is a built-in worker: what it needs on NATS, and its program.
type Worker struct {
	// Spec names the worker, and says what headgate provision makes for it.
	Spec stream.WorkerSpec

	settings func() any
	run      func(context.Context, []string, *process.Process) error
}

// worker returns the list's entry of a worker. spec needs no working handlers. S is the type of the program's settings,
// and run is what its main passes to process.Main.
func worker[S any](spec workers.Worker, run func(context.Context, *S, *process.Process) error) Worker {
	w := Worker{Spec: spec.Spec(), settings: func() any { return new(S) }}
	w.run = func(ctx context.Context, args []string, p *process.Process) error {
		s := new(S)
		if _, err := process.Parse(w.Program(), "", s, args); err != nil {
			return err
		}
		return run(ctx, s, p)
	}
	return w
}

// Program returns the name of the worker's binary, image and compose service: its name after "worker-".
func (w Worker) Program() string { return "worker-" + w.Spec.Name }

// Settings returns the settings of the worker's program, a pointer to a struct with the tags that process.Parse reads.
func (w Worker) Settings() any { return w.settings() }

// Has reports whether the worker's program has a flag.
func (w Worker) Has(flag string) bool {
	flags, err := process.Flags(w.Settings())
	return err == nil && slices.ContainsFunc(flags, func(f *kong.Flag) bool { return f.Name == flag }) // Run reports the error
}

// Missing returns the environment variables that the worker requires and that are not set. With a variable missing, Run
// returns an error unless the flag is in args.
func (w Worker) Missing() []string {
	flags, err := process.Flags(w.Settings())
	if err != nil {
		return nil // Run reports it
	}
	var missing []string
	for _, f := range flags {
		if f.Required && len(f.Envs) > 0 && os.Getenv(f.Envs[0]) == "" {
			missing = append(missing, f.Envs[0])
		}
	}
	return missing
}

// Validate returns an error for settings with which Run would not start. They come from args, then from the environment.
func (w Worker) Validate(args []string) error {
	_, err := process.Parse(w.Program(), "", w.Settings(), args)
	return err
}

// Run runs the worker in this process until ctx ends. Its settings come from args, then from the environment, as those
// of its binary do.
func (w Worker) Run(ctx context.Context, args []string, p *process.Process) error {
	return w.run(ctx, args, p)
}
