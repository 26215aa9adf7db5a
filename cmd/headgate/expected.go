package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/headgate/headgate/pkg/state"
)

// expectedCmd lists what should have come from Codat and has not.
type expectedCmd struct {
	Kind         []state.ExpectedKind `name:"kind" env:"-" help:"Only this kind: silent, overdue or stale; give it again for another one."`
	Company      string               `name:"company" env:"-" help:"Only what concerns the company with this id."`
	JSON         bool                 `name:"json" env:"-" help:"Print JSON."`
	connectFlags `embed:""`
}

// Validate returns an error for a kind that does not exist.
func (c *expectedCmd) Validate() error {
	for _, k := range c.Kind {
		if !slices.Contains(state.ExpectedKinds, k) {
			return fmt.Errorf("--kind: no kind is %q: use silent, overdue or stale", k)
		}
	}
	return nil
}

// Run prints one line for each record.
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
	err = printList(t, "record", c.JSON, expectedLine, func(each func(state.Expected) error) error {
		for _, e := range all {
			if c.Company != "" && c.Company != e.Company {
				continue
			}
			n++
			if err := each(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && n == 0 && !c.JSON {
		fmt.Fprintln(t.err, "headgate watch, or headgate serve, writes the records: while neither runs nothing is recorded")
	}
	return err
}

// expectedLine returns a record in one line.
func expectedLine(e state.Expected) string {
	what := "events of " + printable(e.Type)
	switch e.Kind {
	case state.OverdueWrite:
		what = fmt.Sprintf("outcome of write %s  %s  company %s", printable(e.PushOperationKey), printable(string(e.DataType)), printable(e.Company))
	case state.StaleRead:
		what = fmt.Sprintf("read of %s  company %s  connection %s", printable(string(e.DataType)), printable(e.Company), printable(e.Connection))
	}
	return fmt.Sprintf("%-7s  due %s  last %-19s  %s", e.Kind, formatTime(e.Due), formatTime(e.Last), what)
}
