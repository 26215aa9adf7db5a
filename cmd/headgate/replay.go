package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

// replayCmd gives stored events to one worker again, also those that are done or dead.
type replayCmd struct {
	Worker     string        `name:"worker" required:"" env:"-" help:"The worker that gets the events. Only events that it takes are chosen."`
	ID         []string      `name:"id" env:"-" help:"The event of this webhook-id. Can be repeated."`
	Type       codat.Pattern `name:"type" env:"-" help:"Only events of this type, or of a pattern: * is one token, > the rest."`
	Company    string        `name:"company" env:"-" help:"Only events of the company with this id."`
	Connection string        `name:"connection" env:"-" help:"Only events of the connection with this id."`
	Since      timeFlag      `name:"since" env:"-" placeholder:"TIME" help:"Only events stored at this time or later: a duration before now (90m, 3d), a date, or a date and time."`
	Until      timeFlag      `name:"until" env:"-" placeholder:"TIME" help:"Only events stored before this time."`
	All        bool          `name:"all" env:"-" help:"Every stored event that the worker takes."`

	redriveFlags `embed:""`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a command line without a worker or without a choice.
func (c *replayCmd) Validate() error {
	filtered := len(c.ID) > 0 || c.Type != "" || c.Company != "" || c.Connection != "" || c.Limit > 0 || c.Since != timeFlag{} || c.Until != timeFlag{}
	if filtered == c.All {
		return errors.New("choose the events: --id, --type, --company, --connection, --since, --until, --limit, or --all")
	}
	if c.Worker == "" {
		return errors.New("--worker is required: the worker that gets the events")
	}
	if c.Type != "" {
		if err := c.Type.Validate(); err != nil {
			return fmt.Errorf("--type: %w", err)
		}
	}
	return errors.Join(c.redriveFlags.check(), stream.ValidateWorker(c.Worker))
}

// Run chooses events and redrives them; a dry run prints them.
func (c *replayCmd) Run(ctx context.Context, t *terminal) error {
	return c.asOperator(ctx, t, func(o *operator.Operator, _ *client) error {
		progress := newProgressBar(t)
		defer progress.clear()
		opts := operator.EventsOptions{
			Worker: c.Worker, IDs: c.ID, Type: c.Type, Company: c.Company, Connection: c.Connection, Limit: int(c.Limit), Since: c.Since.Time, Until: c.Until.Time,
		}
		run := redriveRun{operator: o, noun: "event", to: " to " + c.Worker, outputFlags: c.outputFlags, since: c.Since.Time}
		if c.DryRun { // it prints lines, which a progress bar would overwrite
			return printPreview(t, c.redriveFlags, run, eventListing, func(each func(inspect.Event) error) (*operator.Selection, error) {
				opts.Preview = each
				return o.SelectEvents(ctx, opts)
			})
		}
		opts.Progress = func(done, total uint64) { progress.show("events", done, total) }
		var err error
		if run.selection, err = o.SelectEvents(ctx, opts); err != nil {
			return err
		}
		progress.clear()
		return c.redrive(ctx, t, run)
	})
}
