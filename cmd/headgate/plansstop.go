package main

import (
	"context"
	"fmt"

	"github.com/headgate/headgate/pkg/operator"
)

// plansStopCmd lets no plan go on by itself.
type plansStopCmd struct {
	DryRun bool `name:"dry-run" env:"-" help:"Print the plans that would go on, and stop none."`
	Yes    bool `name:"yes" env:"-" help:"Do not ask. It is required without a terminal."`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// stoppedPlans is what plans stop prints for programs.
type stoppedPlans struct {
	operator.OpenPlans
	DryRun bool `json:"dry_run,omitempty"`
}

// Run prints the ids of the plans, and stops them.
func (c *plansStopCmd) Run(ctx context.Context, t *terminal) error {
	return c.asAdmin(ctx, t, func(o *operator.Operator, _ *client) error {
		open, err := o.FindOpenPlans(ctx)
		if err != nil {
			return err
		}
		n := len(open.IDs)
		if !c.DryRun && n > 0 {
			fmt.Fprintf(t.err, "found: %s that go on by themselves\n", plural(n, "plan"))
			if !c.Yes {
				if err := confirm(t, "Stop them? [y/N] ", "no plan was stopped"); err != nil {
					return err
				}
			}
			if err := o.StopPlans(ctx, open); err != nil {
				return err
			}
		}
		if !c.forPeople() && c.format() != outputID {
			return c.printRecord(t, stoppedPlans{open, c.DryRun}, "", nil)
		}
		for _, id := range open.IDs {
			if _, err := fmt.Fprintln(t.out, printable(id)); err != nil {
				return err
			}
		}
		said := "stopped; one goes on when it is submitted again, or by plans resume, retry, skip and cancel"
		if c.DryRun {
			said = "would be stopped"
		}
		if c.forPeople() {
			fmt.Fprintf(t.err, "%s %s\n", plural(n, "plan"), said)
		}
		return nil
	})
}
