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
	JSON         bool `name:"json" env:"-" help:"Print JSON."`
	connectFlags `embed:""`
}

// Run prints one line for each running worker process. One that crashed is listed for up to a minute more.
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
	for _, i := range all {
		if err := c.print(t, runningWorker{Instance: i, pause: pauses[i.Worker]}); err != nil {
			return err
		}
	}
	if c.JSON {
		return nil
	}
	for _, worker := range slices.Sorted(maps.Keys(pauses)) {
		p := pauses[worker]
		if p.Paused && !slices.ContainsFunc(all, func(i inspect.Instance) bool { return i.Worker == worker }) {
			fmt.Fprintf(t.err, "%s is paused by an operator %s; no process of it runs\n", printable(worker), p)
		}
	}
	fmt.Fprintln(t.err, plural(len(all), "running worker"))
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
	pause stream.Pause

	// The same for programs. Until is absent when only headgate resume ends the pause.
	ConsumerPaused      bool      `json:"consumer_paused,omitempty"`
	ConsumerPausedUntil time.Time `json:"consumer_paused_until,omitzero"`
}

func (c *workersCmd) print(t *terminal, i runningWorker) error {
	if c.JSON {
		i.ConsumerPaused, i.ConsumerPausedUntil = i.pause.Paused, i.pause.Until
		return printJSON(t.out, i)
	}
	state := "running"
	switch {
	case i.pause.Paused:
		state = "paused by an operator " + i.pause.String()
	case i.CannotClaim != "":
		state = "cannot claim: " + truncate(i.CannotClaim, 200)
	case !i.Paused.IsZero():
		state = "paused since " + formatTime(i.Paused)
	}
	_, err := fmt.Fprintf(t.out, "%-20s  %s  on %s  version %s  %s  seen %s ago\n",
		printable(i.Worker), printable(i.Instance.Instance), printable(i.Host), printable(i.Version), state, time.Since(i.Seen).Round(time.Second))
	return err
}
