package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/stream"
)

// provision makes what a source and the built-in workers need.
type provision struct {
	DryRun    bool `name:"dry-run" env:"-" help:"Say what differs and change nothing; exit 1 when something does."`
	AllowLoss bool `name:"allow-loss" env:"-" help:"Do also what may lose events. Without it such a change is refused, and says why."`
	JSON      bool `name:"json" env:"-" help:"Print JSON."`

	Replicas       int           `name:"replicas" env:"-" help:"Copies of every stream and bucket: 3 in a cluster. As it is, or 1, if not given."`
	MaxAge         time.Duration `name:"max-age" env:"-" help:"How long events and their ids are kept. As it is, or 384h (16 days), if not given."`
	MaxBytes       ingress.Size  `name:"max-bytes" env:"-" placeholder:"SIZE" help:"Room for the events, as 10GiB. As it is, or 2GiB, if not given."`
	DeadMaxBytes   ingress.Size  `name:"dead-max-bytes" env:"-" placeholder:"SIZE" help:"Room for the dead letters. As it is, or 256MiB, if not given."`
	ParkedMaxBytes ingress.Size  `name:"parked-max-bytes" env:"-" placeholder:"SIZE" help:"Room for the events that wait long. As it is, or 256MiB, if not given."`
	ClaimsMaxBytes ingress.Size  `name:"claims-max-bytes" env:"-" placeholder:"SIZE" help:"Room for the claims of each worker. As it is, or 512MiB, if not given."`
	StateMaxBytes  ingress.Size  `name:"state-max-bytes" env:"-" placeholder:"SIZE" help:"Room for each state. As it is, or 128MiB, if not given."`

	broker `embed:""`
}

func (c *provision) plan() stream.Plan {
	plan := stream.Plan{
		Source:         c.Source,
		Replicas:       c.Replicas,
		MaxAge:         c.MaxAge,
		MaxBytes:       int64(c.MaxBytes),
		DeadMaxBytes:   int64(c.DeadMaxBytes),
		ParkedMaxBytes: int64(c.ParkedMaxBytes),
		ClaimsMaxBytes: int64(c.ClaimsMaxBytes),
		StateMaxBytes:  int64(c.StateMaxBytes),
		AllowLoss:      c.AllowLoss,
	}
	for _, w := range builtin {
		plan.Workers = append(plan.Workers, w.shape.Plan())
	}
	return plan
}

// Validate reports a plan that cannot be meant.
func (c *provision) Validate() error {
	return c.plan().Validate()
}

// change is one line of the report for programs.
type change struct {
	Object string        `json:"object"`
	Action stream.Action `json:"action"`
	Fields []field       `json:"fields,omitempty"`
	Notes  []string      `json:"notes,omitempty"`
}

type field struct {
	Name string `json:"name"`
	Have string `json:"have,omitempty"`
	Want string `json:"want"`
}

// Run makes what is missing and reports every object that it looked at, also when it could not go on.
func (c *provision) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	changes, err := stream.Provision(ctx, l, c.plan(), c.DryRun)
	count := map[stream.Action]int{}
	for _, ch := range changes {
		count[ch.Action]++
		if err := c.print(t, ch); err != nil {
			return err
		}
	}
	made := count[stream.Create] + count[stream.Update]
	if !c.DryRun && made > 0 {
		err = errors.Join(err, c.record(ctx, l, made, err))
	}
	if err != nil {
		return err
	}
	if c.DryRun && made > 0 {
		return fmt.Errorf("%d of %d objects differ: headgate provision changes that", made, len(changes))
	}
	if !c.JSON {
		fmt.Fprintf(t.err, "%d created, %d changed, %d as they should be\n", count[stream.Create], count[stream.Update], count[stream.Same])
	}
	return nil
}

func (c *provision) print(t *terminal, ch stream.Change) error {
	if !c.JSON {
		_, err := fmt.Fprintln(t.out, ch)
		return err
	}
	line := change{Object: ch.Object, Action: ch.Action, Notes: ch.Notes}
	for _, f := range ch.Fields {
		line.Fields = append(line.Fields, field(f))
	}
	return printJSON(t.out, line)
}

// record keeps what was provisioned. There is nowhere to keep it before.
func (c *provision) record(ctx context.Context, l *link, made int, failure error) error {
	p, err := l.publisher()
	if err != nil {
		return err
	}
	defer p.Close()
	d := deed{Command: "provision", Step: "end", Count: made, Given: made, Chosen: map[string]any{"allow_loss": c.AllowLoss}}
	if failure != nil {
		d.Error = failure.Error()
	}
	return l.record(ctx, p, d)
}
