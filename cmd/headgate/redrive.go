package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/operator"
)

// redriveFlags are the flags of the commands that give events again.
type redriveFlags struct {
	RedriveID string  `name:"redrive-id" env:"-" placeholder:"ID" help:"ID of this redrive; a new one by default. Within one redrive nothing is given twice: to continue after an interrupt, run the command again with its ID."`
	Rate      float64 `name:"rate" env:"-" default:"100" help:"Upper bound of the events given in a second."`
	DryRun    bool    `name:"dry-run" env:"-" help:"Print what would be given, and give nothing."`
}

// check returns an error for an ID or a rate that cannot be used.
func (f redriveFlags) check() error {
	if f.Rate <= 0 {
		return fmt.Errorf("--rate must be greater than 0 (got %v)", f.Rate)
	}
	if err := operator.ValidateRedriveID(f.options().ID); err != nil {
		return fmt.Errorf("--redrive-id: %w", err)
	}
	return nil
}

// options returns the options of the redrive, under a new ID when none was given.
func (f redriveFlags) options() operator.RedriveOptions {
	opts := operator.RedriveOptions{ID: f.RedriveID, Rate: f.Rate}
	if opts.ID == "" {
		opts.ID = operator.NewRedriveID()
	}
	return opts
}

// redriveRun is what a command gives again, and how it reports it.
type redriveRun struct {
	operator  *operator.Operator
	selection *operator.Selection
	noun      string // "event" or "dead letter"
	to        string // " to W", or empty when each goes to a worker of its own
	json      bool
}

// redrive runs a redrive, or only counts in a dry run, and reports the result. It reports also after an error.
func (f redriveFlags) redrive(ctx context.Context, t *terminal, r redriveRun) error {
	opts := f.options()
	if f.DryRun || r.selection.Len() == 0 {
		return r.report(t, operator.RedriveResult{Redrive: opts.ID, Chosen: r.selection.Len(), LeftOut: r.selection.LeftOut(), DryRun: f.DryRun})
	}
	if !r.json {
		// Printed first, so that an interrupted redrive can be continued by its ID.
		fmt.Fprintf(t.err, "redrive %s: giving %s%s again\n", opts.ID, plural(r.selection.Len(), r.noun), r.to)
	}
	progress := newProgressBar(t)
	opts.Progress = func(done, total int) { progress.show(r.noun+"s given", uint64(done), uint64(total)) }
	result, err := r.operator.Redrive(ctx, r.selection, opts)
	progress.clear()
	return errors.Join(err, r.report(t, result))
}

func (r redriveRun) report(t *terminal, result operator.RedriveResult) error {
	if r.json {
		return printJSON(t.out, result)
	}
	if result.DryRun {
		_, err := fmt.Fprintf(t.out, "dry run: %s would be given%s again%s\n", plural(result.Chosen, r.noun), r.to, r.leftOut())
		return err
	}
	line := fmt.Sprintf("redrive %s: %s of %d given%s again", result.Redrive, plural(result.Given, r.noun), result.Chosen, r.to)
	if result.Before > 0 {
		line += fmt.Sprintf(", %d given before", result.Before)
	}
	_, err := fmt.Fprintln(t.out, line+r.leftOut())
	return err
}

// leftOut returns how many dead letters were left out, and why, to be appended to the report.
func (r redriveRun) leftOut() string {
	if r.selection.LeftOut() == 0 {
		return ""
	}
	var why []string
	closed := r.selection.Closed()
	for _, state := range slices.Sorted(maps.Keys(closed)) {
		why = append(why, fmt.Sprintf("%d %s", closed[state], state))
	}
	return fmt.Sprintf(", %d left out (%s): --again gives them too", r.selection.LeftOut(), strings.Join(why, ", "))
}
