package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/operator"
)

// redriveFlags are the flags of the commands that give events again.
type redriveFlags struct {
	RedriveID string    `name:"redrive-id" env:"-" placeholder:"ID" help:"ID of this redrive; a new one by default. Within one redrive nothing is given twice: to continue after an interrupt, run the command again with its ID."`
	Rate      float64   `name:"rate" env:"-" default:"100" help:"Upper bound of the events given in a second. Above 100 they are given in their order only to an ordered worker."`
	Limit     limitFlag `name:"limit" env:"-" placeholder:"N" help:"Give at most N, the oldest. Default: all that are chosen."`
	DryRun    bool      `name:"dry-run" env:"-" help:"Print what would be given, and give nothing."`
	Yes       bool      `name:"yes" env:"-" help:"Do not ask on a terminal before more than one is given."`
}

// check returns an error for an ID or a rate that cannot be used.
func (f redriveFlags) check() error {
	if err := operator.ValidateRate(f.Rate); err != nil {
		return fmt.Errorf("--rate %w", err)
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
	outputFlags

	since     time.Time // of the filter
	numbers   bool      // numbers choose, and no filter
	fromInput bool      // the numbers are in the input
}

// redrive runs a redrive, or only counts in a dry run, and reports the result. It reports also after an error.
func (f redriveFlags) redrive(ctx context.Context, t *terminal, r redriveRun) error {
	opts := f.options()
	if r.selection.Len() == 0 {
		return r.report(t, f.planned(r.selection, opts.ID))
	}
	if r.forPeople() {
		fmt.Fprintln(t.err, r.what())
	}
	if r.selection.Len() > 1 && !f.Yes && t.asks() {
		if err := confirm(t, "Give them again? [y/N] ", "nothing was given"); err != nil {
			return err
		}
	}
	if r.forPeople() {
		// Printed first, so that an interrupted redrive can be continued by its ID.
		fmt.Fprintf(t.err, "redrive %s: giving %s%s again\n", opts.ID, plural(r.selection.Len(), r.noun), r.to)
	}
	progress := newProgressBar(t)
	opts.Progress = func(done, total int) { progress.show(r.noun+"s given", uint64(done), uint64(total)) }
	result, err := r.operator.Redrive(ctx, r.selection, opts)
	progress.clear()
	err = errors.Join(err, r.report(t, result))
	if rest := result.Chosen - result.Given - result.Before - result.NotGiven; err != nil && rest > 0 {
		fmt.Fprintf(t.err, "%d are left. To go on, run%s\n  %s\n", rest, r.sameInput(), r.again(t.args, opts.ID))
	}
	return err
}

// planned is the result of a redrive that gives nothing.
func (f redriveFlags) planned(s *operator.Selection, id string) operator.RedriveResult {
	return operator.RedriveResult{Redrive: id, Chosen: s.Len(), LeftOut: s.LeftOut(), DryRun: f.DryRun}
}

// printPreview prints what a run would give: each record with which choose calls its function, and the result of a run that gives nothing.
func printPreview[T any](t *terminal, f redriveFlags, r redriveRun, l listing[T], choose func(each func(T) error) (*operator.Selection, error)) error {
	result := new(operator.RedriveResult)
	l.member = &member{"result", result}
	w := l.writer(t, r.outputFlags)
	var err error
	if r.selection, err = choose(w.write); err != nil {
		return errors.Join(err, w.flush())
	}
	*result = f.planned(r.selection, f.options().ID)
	if err := w.end(); err != nil {
		return err
	}
	switch r.format() {
	case outputJSON, outputID:
		return nil
	case outputLines:
		return printJSON(t.out, result)
	}
	return r.printText(t, *result)
}

// sameInput is what the command that goes on needs besides.
func (r redriveRun) sameInput() string {
	if r.fromInput {
		return ", with the same input:"
	}
	return ":"
}

// what says what is to be given: how many of which types.
func (r redriveRun) what() string {
	return "chosen" + r.to + ": " + r.selection.Summary()
}

// again returns the command line of this run as one that goes on with it: the same redrive, and the same selection, also when
// it runs at another time. It has no user or password of an address.
func (r redriveRun) again(args []string, redriveID string) string {
	words := []string{"headgate"}
	var arguments []string // behind --, where nothing is a flag
	if end := slices.Index(args, "--"); end >= 0 {
		args, arguments = args[:end], args[end:]
	}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		name, value, joined := strings.Cut(arg, "=")
		switch name {
		case "--redrive-id", "--until", "--since", "--nats-url":
			if !joined && i+1 < len(args) {
				i++
				value = args[i]
			}
		}
		switch {
		case name == "--redrive-id", name == "--until", name == "--all" && !r.numbers:
			continue
		case name == "--since":
			arg = "--since=" + r.since.UTC().Format(time.RFC3339Nano)
		case name == "--nats-url":
			arg = "--nats-url=" + withoutUser(value)
		}
		words = append(words, operator.ShellWord(arg))
	}
	words = append(words, "--redrive-id="+redriveID)
	if !r.numbers {
		words = append(words, "--until="+r.selection.Until().UTC().Format(time.RFC3339Nano))
	}
	for _, arg := range arguments {
		words = append(words, operator.ShellWord(arg))
	}
	return strings.Join(words, " ")
}

func (r redriveRun) report(t *terminal, result operator.RedriveResult) error {
	return r.printRecord(t, result, result.Redrive, func() error { return r.printText(t, result) })
}

func (r redriveRun) printText(t *terminal, result operator.RedriveResult) error {
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
	if summary := r.selection.LeftOutSummary(); summary != "" {
		return ", " + summary + ": --again gives them too"
	}
	return ""
}
