package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// provisionCmd creates and updates the objects of a source, of the built-in workers and of those whose specs are given.
type provisionCmd struct {
	Spec      []string `name:"spec" env:"-" sep:"none" type:"existingfile" placeholder:"FILE" help:"What the --spec of a worker that is not built in printed: provision for it too."`
	Support   bool     `name:"support" env:"-" help:"Create the consumer of the role support too: it has the headers of events, and no body."`
	DryRun    bool     `name:"dry-run" env:"-" help:"Print what differs and change nothing; exit with 1 if something differs."`
	AllowLoss bool     `name:"allow-loss" env:"-" help:"Apply also changes that can lose events. They are refused without it."`

	Replicas       int              `name:"replicas" env:"-" help:"Replicas of every stream and bucket: 3 in a cluster. The present number by default, and at least that of the events."`
	MaxAge         time.Duration    `name:"max-age" env:"-" help:"How long events and their ids are kept. The present value by default, and 384h (16 days) for a new stream."`
	MaxBytes       process.ByteSize `name:"max-bytes" env:"-" placeholder:"SIZE" help:"Maximum size of the events, such as 10GiB. The present value by default, and 2GiB for a new one."`
	DeadMaxBytes   process.ByteSize `name:"dead-max-bytes" env:"-" placeholder:"SIZE" help:"Maximum size of the dead letters. The present value by default, and 256MiB for a new one."`
	ParkedMaxBytes process.ByteSize `name:"parked-max-bytes" env:"-" placeholder:"SIZE" help:"Maximum size of the parked events. The present value by default, and 256MiB for a new one."`
	ClaimsMaxBytes process.ByteSize `name:"claims-max-bytes" env:"-" placeholder:"SIZE" help:"Maximum size of the claims of each worker. The present value by default, and 512MiB for a new one."`
	StateMaxBytes  process.ByteSize `name:"state-max-bytes" env:"-" placeholder:"SIZE" help:"Maximum size of each state. The present value by default, and 128MiB for a new one."`

	StateMaxAge map[string]time.Duration `name:"state-max-age" env:"-" placeholder:"STATE=DURATION" help:"How long the records of a state are kept after their last change, such as writes=4320h; 0s is for ever. The present value by default, and for a new state 2160h (90 days) of writes and plans, 4320h of reads, and for ever of others."`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

func (c *provisionCmd) layout() (stream.Layout, error) {
	own, err := readSpecs(c.Spec)
	return stream.Layout{
		Source:         c.Source,
		Workers:        append(builtinSpecs(), own...),
		Replicas:       c.Replicas,
		MaxAge:         c.MaxAge,
		MaxBytes:       int64(c.MaxBytes),
		DeadMaxBytes:   int64(c.DeadMaxBytes),
		ParkedMaxBytes: int64(c.ParkedMaxBytes),
		ClaimsMaxBytes: int64(c.ClaimsMaxBytes),
		StateMaxBytes:  int64(c.StateMaxBytes),
		StateMaxAge:    c.StateMaxAge,
		Support:        c.Support,
		AllowLoss:      c.AllowLoss,
	}, err
}

// Validate returns an error for a spec that cannot be read and for a layout that cannot be made.
func (c *provisionCmd) Validate() error {
	layout, err := c.layout()
	if err != nil {
		return err
	}
	return layout.Validate()
}

// change is one object in the report.
type change struct {
	Object string        `json:"object"`
	Action stream.Action `json:"action"`
	Fields []field       `json:"fields,omitempty"`
	Notes  []string      `json:"notes,omitempty"`

	text string
}

type field struct {
	Name string `json:"name"`
	Have string `json:"have,omitempty"`
	Want string `json:"want"`
}

// Run provisions, and prints every object that it checked, also after an error.
func (c *provisionCmd) Run(ctx context.Context, t *terminal) error {
	layout, err := c.layout()
	if err != nil {
		return err
	}
	nc, err := c.connectAs(ctx, t, "provision") // not as an operator: neither hears what the other is answered
	if err != nil {
		return err
	}
	defer nc.close()
	done, err := stream.Provision(ctx, nc, layout, c.DryRun)
	changes := make([]change, len(done))
	for i, ch := range done {
		changes[i] = newChange(ch)
	}
	count := map[stream.Action]int{}
	for _, ch := range changes {
		count[ch.Action]++
	}
	if err := changeListing.report(t, c.outputFlags, all(changes)); err != nil {
		return err
	}
	made := count[stream.Create] + count[stream.Update]
	if !c.DryRun && made > 0 {
		err = errors.Join(err, c.record(ctx, nc, made, err))
	}
	if err != nil {
		return err
	}
	if c.DryRun && made > 0 {
		return fmt.Errorf("%d of %d objects differ: run headgate provision to change them", made, len(changes))
	}
	if c.forPeople() {
		fmt.Fprintf(t.err, "%d created, %d updated, %d unchanged\n", count[stream.Create], count[stream.Update], count[stream.Same])
	}
	return nil
}

var changeListing = listing[change]{
	noun: "object",
	id:   func(c change) string { return c.Object },
	text: func(c change) string { return c.text },
}

func newChange(ch stream.Change) change {
	made := change{Object: ch.Object, Action: ch.Action, Notes: ch.Notes, text: ch.String()}
	for _, f := range ch.Fields {
		made.Fields = append(made.Fields, field(f))
	}
	return made
}

// record writes the operators' record of the run. There is no stream for it before.
func (c *provisionCmd) record(ctx context.Context, nc *client, made int, failure error) error {
	o, err := operator.New(nc, nc.source)
	if err != nil {
		return err
	}
	defer o.Close()
	e := operator.Entry{
		Command: "provision", Step: operator.StepEnd, Count: made, Given: made, Chosen: map[string]any{"allow_loss": c.AllowLoss},
	}
	if failure != nil {
		e.Error = failure.Error()
	}
	return o.Record(ctx, e)
}
