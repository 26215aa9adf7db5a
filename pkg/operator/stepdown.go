package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// A Leadership says which server led a stream, and which one leads it now.
type Leadership struct {
	Stream string `json:"stream"`
	Before string `json:"before"`
	Now    string `json:"now"`
}

// StepDown has another server lead a stream of the source, or the stream of one of its buckets. Its errors are those of stream.StepDown,
// that of a record, and one for a stream that is not the source's. It needs the role admin.
func (o *Operator) StepDown(ctx context.Context, name string) (Leadership, error) {
	l := Leadership{Stream: name}
	names, err := inspect.StreamNames(ctx, o.js, o.source)
	if err != nil {
		return l, err
	}
	if !slices.Contains(names, name) {
		return l, fmt.Errorf("%s has no stream %q: headgate streams lists them", o.source, name)
	}
	e := Entry{Command: "step-down", Step: StepBegin, Count: 1, Chosen: map[string]any{"stream": name}}
	if err := o.Record(ctx, e); err != nil {
		return l, err
	}
	l.Before, l.Now, err = stream.StepDown(ctx, o.js, name)
	e.Step, e.Given, e.Chosen = StepEnd, 1, map[string]any{"stream": name, "before": l.Before, "now": l.Now}
	if err != nil {
		e.Given, e.Error = 0, err.Error()
	}
	return l, errors.Join(err, o.Record(ctx, e))
}
