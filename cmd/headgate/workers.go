package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// workersCmd lists the running workers.
type workersCmd struct {
	Worker       string `name:"worker" env:"-" help:"Only processes of this worker."`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// Run lists the running worker processes. One that crashed is listed for up to a minute more.
func (c *workersCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	all, err := inspect.Instances(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	pauses, err := c.pauses(ctx, nc)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(i inspect.Instance) bool { return c.Worker != "" && c.Worker != i.Worker })
	err = instanceListing.print(t, c.listFlags, func(each func(runningWorker) error) error {
		for _, i := range all {
			p := pauses[i.Worker]
			if err := each(runningWorker{Instance: i, ConsumerPaused: p.Paused, ConsumerPausedUntil: p.Until, pause: p}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !c.forPeople() {
		return err
	}
	for _, worker := range slices.Sorted(maps.Keys(pauses)) {
		p := pauses[worker]
		if p.Paused && (c.Worker == "" || c.Worker == worker) && !slices.ContainsFunc(all, func(i inspect.Instance) bool { return i.Worker == worker }) {
			fmt.Fprintf(t.err, "%s is paused by an operator %s; no process of it runs\n", printable(worker), p)
		}
	}
	return nil
}

// pauses returns the pauses of the workers' consumers on the events, by name.
func (c *workersCmd) pauses(ctx context.Context, nc *client) (map[string]stream.Pause, error) {
	consumers, err := stream.Workers(ctx, nc, nc.source)
	pauses := map[string]stream.Pause{}
	for _, info := range consumers {
		pauses[info.Name] = stream.PauseOf(info)
	}
	return pauses, err
}

// A runningWorker is a process, with the pause of its worker.
type runningWorker struct {
	inspect.Instance
	ConsumerPaused      bool      `json:"consumer_paused,omitempty"`
	ConsumerPausedUntil time.Time `json:"consumer_paused_until,omitzero"` // absent when only headgate resume ends the pause

	pause stream.Pause
}

var instanceListing = listing[runningWorker]{
	noun: "running worker",
	id:   func(i runningWorker) string { return i.Worker },
	columns: []column[runningWorker]{
		{name: "WORKER", cell: func(i runningWorker) cell { return textCell(i.Worker) }},
		{name: "INSTANCE", cell: func(i runningWorker) cell { return idCell(i.Instance.Instance) }},
		{name: "HOST", cell: func(i runningWorker) cell { return textCell(i.Host) }},
		{name: "VERSION", cell: func(i runningWorker) cell { return textCell(i.Version) }},
		{name: "STATE", cell: instanceState},
		{name: "PAUSED", cell: func(i runningWorker) cell { return timeCell(i.Paused) }},
		{name: "SEEN", cell: func(i runningWorker) cell { return timeCell(i.Seen) }},
		{name: "ERROR", cell: func(i runningWorker) cell { return textCell(i.CannotClaim) }},
	},
}

func instanceState(i runningWorker) cell {
	switch {
	case i.pause.Paused:
		return stateCell("paused by an operator "+i.pause.String(), yellow)
	case i.CannotClaim != "":
		return stateCell("cannot claim", red)
	case !i.Paused.IsZero():
		return stateCell("paused", yellow)
	}
	return stateCell("running", green)
}
