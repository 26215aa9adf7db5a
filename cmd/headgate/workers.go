package main

import (
	"context"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/inspect"
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
	for _, i := range all {
		if err := c.print(t, i); err != nil {
			return err
		}
	}
	if !c.JSON {
		fmt.Fprintln(t.err, plural(len(all), "running worker"))
	}
	return nil
}

func (c *workersCmd) print(t *terminal, i inspect.Instance) error {
	if c.JSON {
		return printJSON(t.out, i)
	}
	state := "running"
	switch {
	case i.CannotClaim != "":
		state = "cannot claim: " + truncate(i.CannotClaim, 200)
	case !i.Paused.IsZero():
		state = "paused since " + formatTime(i.Paused)
	}
	_, err := fmt.Fprintf(t.out, "%-20s  %s  on %s  version %s  %s  seen %s ago\n",
		printable(i.Worker), printable(i.Instance), printable(i.Host), printable(i.Version), state, time.Since(i.Seen).Round(time.Second))
	return err
}
