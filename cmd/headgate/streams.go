package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
)

// streamsCmd lists the streams, with the servers that have their copies.
type streamsCmd struct {
	All          bool `name:"all" env:"-" help:"List every stream of the account, also those of other sources and of others than Headgate."`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// Run lists the streams.
func (c *streamsCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	all, err := inspect.Copies(ctx, nc, nc.source, c.All)
	if err != nil {
		return err
	}
	return streamListing.print(t, c.listFlags, func(each func(inspect.StreamCopies) error) error {
		for _, s := range all {
			if err := each(s); err != nil {
				return err
			}
		}
		return nil
	})
}

var streamListing = listing[inspect.StreamCopies]{
	noun: "stream",
	id:   func(s inspect.StreamCopies) string { return s.Name },
	columns: []column[inspect.StreamCopies]{
		{name: "STREAM", cell: func(s inspect.StreamCopies) cell { return textCell(s.Name) }},
		{name: "MESSAGES", cell: func(s inspect.StreamCopies) cell { return numberCell(s.Messages) }},
		{name: "BYTES", cell: func(s inspect.StreamCopies) cell { return numberCell(s.Bytes) }},
		{name: "LEADER", cell: func(s inspect.StreamCopies) cell { return textCell(s.Leader) }},
		{name: "FOLLOWERS", cell: func(s inspect.StreamCopies) cell { return textCell(strings.Join(s.Followers, ",")) }},
		{name: "BEHIND", cell: func(s inspect.StreamCopies) cell { return stateCell(strings.Join(s.Behind, ","), red) }},
		{name: "CREATED", cell: func(s inspect.StreamCopies) cell { return timeCell(s.Created) }},
		{name: "SUBJECTS", cell: func(s inspect.StreamCopies) cell { return textCell(strings.Join(s.Subjects, ",")) }},
	},
}

// stepDownCmd has another server lead a stream.
type stepDownCmd struct {
	Stream       string `arg:"" optional:"" help:"Name of the stream, as headgate streams prints it. The stream of the events by default."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Run has another server lead, and says which one does.
func (c *stepDownCmd) Run(ctx context.Context, t *terminal) error {
	return c.asAdmin(ctx, t, func(o *operator.Operator, nc *client) error {
		name := c.Stream
		if name == "" {
			name = nc.source.Stream()
		}
		l, err := o.StepDown(ctx, name)
		if err != nil {
			return err
		}
		return c.printRecord(t, l, l.Stream, func() error {
			_, err := fmt.Fprintf(t.out, "%s leads %s; before, %s did\n", l.Now, l.Stream, l.Before)
			return err
		})
	})
}
