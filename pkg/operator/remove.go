package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// ErrInUse means that what is to be removed still runs, or that events wait for it.
var ErrInUse = errors.New("in use")

// InUse is what speaks against removing a worker or a source.
type InUse struct {
	Instances int    `json:"instances"` // of workers that run
	Waiting   uint64 `json:"waiting"`   // events and parked copies
}

func (u InUse) err(what string) error {
	if u == (InUse{}) {
		return nil
	}
	return fmt.Errorf("%s is %w: %d instances run, and %d events and parked copies wait: stop what runs and let it end (headgate workers, headgate audit), or remove it with --allow-loss", what, ErrInUse, u.Instances, u.Waiting)
}

// A WorkerRemoval is what a worker has on NATS.
type WorkerRemoval struct {
	Worker string `json:"worker"`
	// Consumers are the names of the streams on which it has a consumer.
	Consumers []string `json:"consumers"`
	Claims    uint64   `json:"claims"`
	InUse     InUse    `json:"in_use"`
	// Parked counts its parked copies, and Letters its dead letters, which stay unless they are to be removed.
	Parked  int  `json:"parked"`
	Letters int  `json:"dead_letters"`
	Kept    bool `json:"dead_letters_kept"`

	bucket bool // it has a bucket of claims
}

// FindWorker returns what a worker of the source has. It returns an error for a name that has nothing, and for a consumer that is not a
// worker's. It needs the role admin.
func (o *Operator) FindWorker(ctx context.Context, worker string) (WorkerRemoval, error) {
	r := WorkerRemoval{Worker: worker, Kept: true}
	if err := stream.ValidateWorker(worker); err != nil {
		return r, err
	}
	for _, name := range []string{o.source.Stream(), o.source.ParkedStream()} {
		info, err := stream.ConsumerOf(ctx, o.js, name, worker)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			continue
		case err != nil:
			return r, err
		case !stream.IsWorkers(info.Config):
			return r, fmt.Errorf("the consumer %s on %s is another service's, and no worker's", worker, name)
		}
		r.Consumers = append(r.Consumers, name)
		r.InUse.Waiting += info.NumPending + uint64(max(0, info.NumAckPending))
	}
	if err := o.countOf(ctx, &r); err != nil {
		return r, err
	}
	if len(r.Consumers) == 0 && !r.bucket && r.Parked == 0 && r.InUse.Instances == 0 {
		return r, fmt.Errorf("%s has no worker %q: headgate doctor lists those that are provisioned", o.source, worker)
	}
	return r, nil
}

// countOf counts what a worker has beside its consumers.
func (o *Operator) countOf(ctx context.Context, r *WorkerRemoval) error {
	instances, err := inspect.Instances(ctx, o.js, o.source)
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return err
	}
	for _, i := range instances {
		if i.Worker == r.Worker {
			r.InUse.Instances++
		}
	}
	claims, err := o.js.Stream(ctx, bucketPrefix+o.source.ClaimsBucket(r.Worker))
	switch {
	case err == nil:
		r.bucket, r.Claims = true, claims.CachedInfo().State.Msgs
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	}
	if r.Parked, err = o.count(ctx, o.source.ParkedStream(), o.source.ParkedFilter(r.Worker)); err != nil {
		return err
	}
	if len(r.Consumers) < 2 { // nothing else counts them
		r.InUse.Waiting += uint64(r.Parked)
	}
	r.Letters, err = o.count(ctx, o.source.DeadStream(), o.source.DeadFilter(r.Worker))
	return err
}

// count returns how many messages of a stream match a subject.
func (o *Operator) count(ctx context.Context, name, filter string) (n int, err error) {
	st, err := o.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return 0, err
	}
	for _, of := range info.State.Subjects {
		n += int(of)
	}
	return n, nil
}

// RemoveWorker removes a worker's consumers, its parked copies, its claims and its entries among the running workers, and with letters
// its dead letters. Its states stay. It looks again at what is in use, because r may be old, and returns ErrInUse while the worker runs or events
// wait for it, unless loss allows it. It removes what an earlier run has left.
func (o *Operator) RemoveWorker(ctx context.Context, r WorkerRemoval, loss, letters bool) (WorkerRemoval, error) {
	r, err := o.FindWorker(ctx, r.Worker)
	if err != nil {
		return r, err
	}
	if r.Kept = !letters; !loss {
		if err := r.InUse.err("worker " + r.Worker); err != nil {
			return r, err
		}
	}
	e := Entry{Command: "remove worker", Step: StepBegin, Count: 1, Chosen: map[string]any{"worker": r.Worker, "allow_loss": loss, "found": r}}
	return r, o.between(ctx, e, func() error { return o.removeWorker(ctx, r) })
}

func (o *Operator) removeWorker(ctx context.Context, r WorkerRemoval) error {
	for _, name := range []string{o.source.Stream(), o.source.ParkedStream()} {
		if err := stream.DeleteConsumer(ctx, o.js, name, r.Worker); err != nil {
			return err
		}
	}
	purges := [][2]string{
		{o.source.ParkedStream(), o.source.ParkedFilter(r.Worker)},
		{bucketPrefix + o.source.WorkersBucket(), "$KV." + o.source.WorkersBucket() + "." + r.Worker + ".>"},
	}
	if !r.Kept {
		purges = append(purges, [2]string{o.source.DeadStream(), o.source.DeadFilter(r.Worker)})
	}
	for _, p := range purges {
		if _, err := stream.PurgeSubjects(ctx, o.js, p[0], p[1]); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	return stream.DeleteStream(ctx, o.js, bucketPrefix+o.source.ClaimsBucket(r.Worker))
}

// between does something between its two records. The end of ctx does not cut the second one off.
func (o *Operator) between(ctx context.Context, e Entry, do func() error) error {
	e.Step = StepBegin
	if err := o.Record(ctx, e); err != nil {
		return err
	}
	err := do()
	e.Step, e.Given = StepEnd, e.Count
	if err != nil {
		e.Given, e.Error = 0, err.Error()
	}
	return errors.Join(err, o.Record(ctx, e))
}

// A SourceRemoval is what a source has on NATS.
type SourceRemoval struct {
	Source  string                 `json:"source"`
	Streams []inspect.StreamCopies `json:"streams"`
	InUse   InUse                  `json:"in_use"`
	// Removed are the names of the streams that were removed, in order.
	Removed []string `json:"removed"`
}

// FindSource returns what the source has, with its operators' records or without. It returns an error for a source that has nothing. It needs
// the role admin.
func (o *Operator) FindSource(ctx context.Context, records bool) (SourceRemoval, error) {
	r := SourceRemoval{Source: string(o.source)}
	var err error
	if r.Streams, err = inspect.Copies(ctx, o.js, o.source, false); err != nil {
		return r, err
	}
	r.Streams = slices.DeleteFunc(r.Streams, func(s inspect.StreamCopies) bool { return !records && s.Name == o.source.OperatorStream() })
	if len(r.Streams) == 0 {
		return r, fmt.Errorf("there is no stream and no bucket of a source %q: headgate streams --all lists what there is", o.source)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(r.Streams, func(s inspect.StreamCopies) bool { return s.Name == name })
	}
	if has(bucketPrefix + o.source.WorkersBucket()) {
		instances, err := inspect.Instances(ctx, o.js, o.source)
		if err != nil {
			return r, err
		}
		r.InUse.Instances = len(instances)
	}
	if !has(o.source.Stream()) {
		return r, nil
	}
	workers, err := stream.Workers(ctx, o.js, o.source)
	for _, w := range workers {
		r.InUse.Waiting += w.NumPending + uint64(max(0, w.NumAckPending))
	}
	parked, counted := o.count(ctx, o.source.ParkedStream(), string(o.source)+".parked.>")
	r.InUse.Waiting += uint64(parked)
	return r, errors.Join(err, counted)
}

// RemoveSource removes the streams and buckets that were found. It looks again at what is in use, because r may be old, and returns ErrInUse while
// workers run or events wait, unless loss allows it. A run that ends early is repeated; the result names what was removed. The operators' records are removed last, with those of this act.
func (o *Operator) RemoveSource(ctx context.Context, r SourceRemoval, loss bool) (SourceRemoval, error) {
	if !loss {
		now, err := o.FindSource(ctx, true)
		if err != nil {
			return r, err
		}
		r.InUse = now.InUse
		if err := r.InUse.err("source " + r.Source); err != nil {
			return r, err
		}
	}
	var names []string
	records := false
	for _, s := range slices.Backward(r.Streams) { // buckets first, and then the events last
		if s.Name == o.source.OperatorStream() {
			records = true
			continue
		}
		names = append(names, s.Name)
	}
	e := Entry{Command: "remove source", Count: len(names), Chosen: map[string]any{"streams": names, "allow_loss": loss}}
	err := o.between(ctx, e, func() error {
		for _, name := range names {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := stream.DeleteStream(ctx, o.js, name); err != nil {
				return err
			}
			r.Removed = append(r.Removed, name)
		}
		return nil
	})
	if err == nil && records {
		if err = stream.DeleteStream(ctx, o.js, o.source.OperatorStream()); err == nil {
			r.Removed = append(r.Removed, o.source.OperatorStream())
		}
	}
	return r, err
}
