package main

import (
	"context"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/connections"
)

// builtin are the workers that come with Headgate: what headgate provision makes room for and headgate dev runs.
var builtin = []builtinWorker{
	{connections.Worker(connections.Store{}), newPart("worker-connections", connections.Run)},
}

type builtinWorker struct {
	shape workers.Worker // says what must be in place, and does not work
	part  part
}

// door is the ingress as a part.
var door = newPart("ingress", ingress.Run)

// A part is a program that can run inside another one, named as its binary.
type part struct {
	name string
	run  func(ctx context.Context, args []string, p *process.Process) error
}

// newPart makes a part of what a binary's main is made of. Its settings are read as the binary reads them: from args,
// then from the environment.
func newPart[S any](name string, run func(context.Context, *S, *process.Process) error) part {
	return part{name, func(ctx context.Context, args []string, p *process.Process) error {
		s := new(S)
		if _, err := process.Parse(name, "", s, args); err != nil {
			return err
		}
		return run(ctx, s, p)
	}}
}
