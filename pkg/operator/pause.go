package operator

import (
	"context"
	"errors"
	"time"

	"github.com/headgate/headgate/pkg/stream"
)

// Pause pauses a worker until a time, or with the zero time until Resume: the server delivers it neither events nor parked copies. The
// pause needs no process of the worker, and survives restarts and provisioning. Handlers that run go on. It returns an error
// for a time that is not in the future and for a worker that is not provisioned; when the pause holds for the events or the parked
// copies only, the error says so, and Pause can be called again.
func (o *Operator) Pause(ctx context.Context, worker string, until time.Time) error {
	e := Entry{Command: "pause", Chosen: map[string]any{"worker": worker}}
	if !until.IsZero() {
		e.Chosen["until"] = until.UTC()
	}
	return o.onWorker(ctx, e, worker, func() error { return stream.PauseWorker(ctx, o.js, o.source, worker, until) })
}

// Resume ends the pause of a worker. It returns nil also for a worker that is not paused, and errors as Pause does.
func (o *Operator) Resume(ctx context.Context, worker string) error {
	e := Entry{Command: "resume", Chosen: map[string]any{"worker": worker}}
	return o.onWorker(ctx, e, worker, func() error { return stream.ResumeWorker(ctx, o.js, o.source, worker) })
}

// onWorker does something to one worker of the source, and records it as e says.
func (o *Operator) onWorker(ctx context.Context, e Entry, worker string, do func() error) error {
	w, err := o.workers(ctx)
	if err == nil {
		err = w.known(worker)
	}
	if err != nil {
		return err
	}
	e.Step, e.Count = StepBegin, 1
	if err := o.Record(ctx, e); err != nil {
		return err
	}
	err = do()
	e.Step, e.Given = StepEnd, 1
	if err != nil {
		e.Given, e.Error = 0, err.Error()
	}
	return errors.Join(err, o.Record(ctx, e))
}
