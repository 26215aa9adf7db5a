package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"go.uber.org/zap"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/builtin"
	"github.com/headgate/headgate/workers/relay"
)

// builtinSpecs returns what must be provisioned for the built-in workers.
func builtinSpecs() []stream.WorkerSpec {
	var specs []stream.WorkerSpec
	for _, w := range builtin.Workers() {
		specs = append(specs, w.Spec)
	}
	return specs
}

// readSpecs reads the specs of workers that are not built in, as their --spec printed them.
func readSpecs(files []string) ([]stream.WorkerSpec, error) {
	var specs []stream.WorkerSpec
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--spec: %w", err)
		}
		spec, err := stream.ParseSpec(text)
		if err != nil {
			return nil, fmt.Errorf("--spec: %s: %w", file, err)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// builtinParts returns the programs of the built-in workers, without those that lack a required setting, which log names.
func builtinParts(log *zap.Logger) []part {
	var parts []part
	for _, w := range builtin.Workers() {
		if missing := w.Missing(); len(missing) > 0 {
			log.Warn("a worker does not run: set the variables that it requires", zap.String("worker", w.Program()), zap.Strings("variables", missing))
			continue
		}
		parts = append(parts, part{w.Program(), w.Run, w.Has("codat-key-file")})
	}
	return parts
}

// A relayRoutes is the setting of a program that also runs the routes of worker-relay.
type relayRoutes struct {
	RelayRoutes string `name:"relay-routes" placeholder:"FILE" help:"YAML file of routes (docs/relay.md): run worker-relay for each of them too."`
}

// read returns the routes of the file, and none without a file.
func (r relayRoutes) read() ([]relay.Route, error) {
	if r.RelayRoutes == "" {
		return nil, nil
	}
	routes, err := relay.ReadRoutes(r.RelayRoutes)
	if err != nil {
		return nil, fmt.Errorf("--relay-routes: %w", err)
	}
	return routes, nil
}

// specs returns what must be provisioned for the built-in workers and the routes.
func (r relayRoutes) specs() ([]stream.WorkerSpec, error) {
	routes, err := r.read()
	specs := builtinSpecs()
	for _, route := range routes {
		specs = append(specs, route.Spec())
	}
	return specs, err
}

// parts returns the programs of the built-in workers and of the routes, without those that lack a required setting, which log
// names.
func (r relayRoutes) parts(log *zap.Logger) ([]part, error) {
	routes, err := r.read()
	parts := builtinParts(log)
	for _, route := range routes {
		p := newPart("worker-"+route.WorkerName(), relay.Run)
		run := p.run
		p.run = func(ctx context.Context, args []string, of *process.Process) error {
			return run(ctx, slices.Concat(args, []string{"--routes=" + r.RelayRoutes, "--route=" + route.Name}), of)
		}
		parts = append(parts, p)
	}
	return parts, err
}

// ingressPart is the program of the ingress.
var ingressPart = newPart("ingress", ingress.Run)

// A part is a program that runs inside another one. Its name is that of its binary.
type part struct {
	name string
	run  func(ctx context.Context, args []string, p *process.Process) error
	// callsCodat is true when it has the settings of package api.
	callsCodat bool
}

// newPart returns a part that reads its settings as the binary does: from args, then from the environment.
func newPart[S any](name string, run func(context.Context, *S, *process.Process) error) part {
	return part{name: name, run: func(ctx context.Context, args []string, p *process.Process) error {
		s := new(S)
		if _, err := process.Parse(name, "", s, args); err != nil {
			return err
		}
		return run(ctx, s, p)
	}}
}
