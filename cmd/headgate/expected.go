package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

// expectedCmd lists what should have come from Codat and has not.
type expectedCmd struct {
	Kind         []state.ExpectedKind `name:"kind" env:"-" help:"Only this kind: silent, overdue or stale; give it again for another one."`
	Type         codat.Pattern        `name:"type" env:"-" help:"Only silent types that are this event type, or of a pattern: * is one token, > the rest."`
	Company      string               `name:"company" env:"-" help:"Only what concerns the company with this id."`
	Connection   string               `name:"connection" env:"-" help:"Only what concerns the connection with this id."`
	periodFlags  `embed:"" set:"when=that were due"`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a kind that does not exist.
func (c *expectedCmd) Validate() error {
	for _, k := range c.Kind {
		if !slices.Contains(state.ExpectedKinds, k) {
			return fmt.Errorf("--kind: no kind is %q: use silent, overdue or stale", k)
		}
	}
	return validateType(c.Type)
}

// Run lists the records.
func (c *expectedCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	all, err := state.ListExpected(ctx, nc, nc.source, c.Kind...)
	if err != nil {
		return err
	}
	n := 0
	err = expectedListing.print(t, c.listFlags, func(each func(state.Expected) error) error {
		for _, e := range all {
			if !c.selects(e) {
				continue
			}
			n++
			if err := each(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && n == 0 && c.forPeople() {
		fmt.Fprintln(t.err, "headgate watch, or headgate serve, writes the records: while neither runs nothing is recorded")
	}
	return err
}

// selects reports whether a record is listed.
func (c *expectedCmd) selects(e state.Expected) bool {
	return (c.Type == "" || e.Type != "" && c.Type.Match(e.Type)) && (c.Company == "" || c.Company == e.Company) &&
		(c.Connection == "" || c.Connection == e.Connection) && c.contains(e.Due)
}

var expectedListing = listing[state.Expected]{
	noun: "record",
	id: func(e state.Expected) string {
		switch e.Kind {
		case state.OverdueWrite:
			return e.PushOperationKey
		case state.StaleRead:
			return e.Company + " " + e.Connection + " " + string(e.DataType)
		}
		return e.Type
	},
	columns: []column[state.Expected]{
		{name: "KIND", cell: func(e state.Expected) cell { return stateCell(string(e.Kind), yellow) }},
		{name: "DUE", cell: func(e state.Expected) cell { return timeCell(e.Due) }},
		{name: "LAST", cell: func(e state.Expected) cell { return timeCell(e.Last) }},
		{name: "TYPE", cell: func(e state.Expected) cell { return textCell(e.Type) }},
		{name: "DATA TYPE", cell: func(e state.Expected) cell { return textCell(e.DataType) }},
		{name: "COMPANY", cell: func(e state.Expected) cell { return idCell(e.Company) }},
		{name: "CONNECTION", cell: func(e state.Expected) cell { return idCell(e.Connection) }},
		{name: "PUSH OPERATION", cell: func(e state.Expected) cell { return idCell(e.PushOperationKey) }},
	},
}
