package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// removeCmd removes a worker or a source.
type removeCmd struct {
	Worker removeWorkerCmd `cmd:"" help:"Remove the consumers, the parked copies and the claims of a worker that was stopped for good. Its states stay."`
	Source removeSourceCmd `cmd:"" help:"Remove every stream and bucket of a source, but for its operators' records."`
}

type removeWorkerCmd struct {
	Name        string `arg:"" help:"Name of the worker, as headgate workers and headgate streams show it."`
	DeadLetters bool   `name:"dead-letters" env:"-" help:"Remove its dead letters too. Without it they are kept for 90 days."`
	AllowLoss   bool   `name:"allow-loss" env:"-" help:"Remove it also while it runs or events wait for it, which then no worker handles."`
	DryRun      bool   `name:"dry-run" env:"-" help:"Print what would be removed, and remove nothing."`
	Yes         bool   `name:"yes" env:"-" help:"Do not ask. It is required without a terminal."`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a name that no worker can have.
func (c *removeWorkerCmd) Validate() error { return stream.ValidateWorker(c.Name) }

// A removal is what remove prints for programs.
type removal[R any] struct {
	Removed R    `json:"removed"`
	DryRun  bool `json:"dry_run,omitempty"`
}

// Run says what the worker has, asks, and removes it.
func (c *removeWorkerCmd) Run(ctx context.Context, t *terminal) error {
	return c.asAdmin(ctx, t, func(o *operator.Operator, _ *client) error {
		r, err := o.FindWorker(ctx, c.Name)
		if err != nil {
			return err
		}
		r.Kept = !c.DeadLetters
		said := workerSaid(r)
		if c.DryRun {
			return c.report(t, r, "dry run: it would remove "+said)
		}
		fmt.Fprintln(t.err, "found: "+said)
		if !c.Yes {
			if err := confirm(t, "Remove it? It cannot be undone. [y/N] ", "nothing was removed"); err != nil {
				return err
			}
		}
		if r, err = o.RemoveWorker(ctx, r, c.AllowLoss, c.DeadLetters); err != nil {
			return err
		}
		if slices.ContainsFunc(builtinSpecs(), func(w stream.WorkerSpec) bool { return w.Name == c.Name }) {
			fmt.Fprintf(t.err, "the next headgate provision makes %s again, until it is taken out of %s\n", c.Name, workerList)
		}
		return c.report(t, r, "removed "+said)
	})
}

func (c *removeWorkerCmd) report(t *terminal, r operator.WorkerRemoval, line string) error {
	return c.printRecord(t, removal[operator.WorkerRemoval]{r, c.DryRun}, r.Worker, func() error {
		_, err := fmt.Fprintln(t.out, line)
		return err
	})
}

// workerSaid says what a worker has.
func workerSaid(r operator.WorkerRemoval) string {
	letters := "dead letter"
	if r.Kept {
		letters = "kept dead letter"
	}
	on := "no stream"
	if len(r.Consumers) > 0 {
		on = strings.Join(r.Consumers, " and ")
	}
	said := fmt.Sprintf("worker %s: its consumer on %s, %d claims, %d parked, %s", r.Worker, on, r.Claims, r.Parked, plural(r.Letters, letters))
	if r.InUse != (operator.InUse{}) {
		said += fmt.Sprintf("; %s running, %d events and parked copies waiting", plural(r.InUse.Instances, "instance"), r.InUse.Waiting)
	}
	return said
}

type removeSourceCmd struct {
	Name      string `arg:"" help:"Name of the source, such as codat-uk."`
	Records   bool   `name:"records" env:"-" help:"Remove the operators' records too, and with them the record of this. Without it they are kept, for a year."`
	AllowLoss bool   `name:"allow-loss" env:"-" help:"Remove it also while workers run or events wait, which are lost."`
	DryRun    bool   `name:"dry-run" env:"-" help:"Print what would be removed, and remove nothing."`
	Yes       string `name:"yes" env:"-" placeholder:"NAME" help:"The name of the source once more, in place of the question. It is required without a terminal."`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a name that no source can have, and for a --yes that has another.
func (c *removeSourceCmd) Validate() error {
	if err := stream.Source(c.Name).Validate(); err != nil {
		return err
	}
	if c.Yes != "" && c.Yes != c.Name {
		return fmt.Errorf("--yes must be the name of the source, %s (got %q)", c.Name, c.Yes)
	}
	return nil
}

// Run says what the source has, asks for its name, and removes it.
func (c *removeSourceCmd) Run(ctx context.Context, t *terminal) error {
	c.Source = stream.Source(c.Name)
	return c.asAdmin(ctx, t, func(o *operator.Operator, _ *client) error {
		r, err := o.FindSource(ctx, c.Records)
		if err != nil {
			return err
		}
		if c.DryRun {
			return c.report(t, r, "dry run: it would remove "+sourceSaid(r))
		}
		fmt.Fprintln(t.err, "found: "+sourceSaid(r))
		if c.Yes == "" {
			if err := confirmName(t, c.Name, "nothing was removed"); err != nil {
				return err
			}
		}
		r, err = o.RemoveSource(ctx, r, c.AllowLoss)
		if err != nil {
			if len(r.Removed) > 0 {
				fmt.Fprintf(t.err, "removed before: %s; the same command goes on\n", strings.Join(r.Removed, ", "))
			}
			return err
		}
		if !c.Records {
			fmt.Fprintf(t.err, "kept: %s, the records of operators, also of this: --records removes them\n", c.Source.OperatorStream())
		}
		return c.report(t, r, fmt.Sprintf("removed %s of %s", plural(len(r.Removed), "stream"), r.Source))
	})
}

func (c *removeSourceCmd) report(t *terminal, r operator.SourceRemoval, line string) error {
	return c.printRecord(t, removal[operator.SourceRemoval]{r, c.DryRun}, c.Name, func() error {
		_, err := fmt.Fprintln(t.out, line)
		return err
	})
}

// sourceSaid says what a source has.
func sourceSaid(r operator.SourceRemoval) string {
	var all []string
	var messages uint64
	for _, s := range r.Streams {
		all = append(all, fmt.Sprintf("%d %s", s.Messages, strings.TrimPrefix(s.Name, "KV_")))
		messages += s.Messages
	}
	said := fmt.Sprintf("%s of %s with %d messages: %s", plural(len(r.Streams), "stream"), r.Source, messages, strings.Join(all, ", "))
	if r.InUse != (operator.InUse{}) {
		said += fmt.Sprintf("; %s running, %d events and parked copies waiting", plural(r.InUse.Instances, "instance"), r.InUse.Waiting)
	}
	return said
}

// confirmName asks on a terminal for a name. It returns an error, with what was not done, for another name and without a terminal.
func confirmName(t *terminal, name, undone string) error {
	if !t.asks() {
		return process.Misconfigured(fmt.Errorf("%s: add --yes=%s, because the input is no terminal", undone, name))
	}
	fmt.Fprintf(t.err, "Type the name of the source to remove it: ")
	answer, _ := bufio.NewReader(t.in).ReadString('\n') // an input that ends is another name
	if strings.TrimSpace(answer) != name {
		return errors.New(undone)
	}
	return nil
}
