package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
)

// writesWorker is the name of the worker that carries out write plans.
const writesWorker = "writes"

// OpenPlans are the write plans that go on without an action.
type OpenPlans struct {
	IDs   []string `json:"ids"`
	lists []found
}

// FindOpenPlans returns the write plans that go on by themselves. It returns ErrInUse while the worker writes runs: it knows its plans
// without their list. It needs the role admin.
func (o *Operator) FindOpenPlans(ctx context.Context) (OpenPlans, error) {
	open := OpenPlans{IDs: []string{}}
	instances, err := inspect.Instances(ctx, o.js, o.source)
	if err != nil {
		return open, err
	}
	if slices.ContainsFunc(instances, func(i inspect.Instance) bool { return i.Worker == writesWorker }) {
		return open, fmt.Errorf("worker %s is %w: it goes on with the plans that it knows: stop its processes, and wait a minute", writesWorker, ErrInUse)
	}
	bucket := o.source.StateBucket(plan.StateName)
	lists := stream.ReadOptions{Filters: []string{"$KV." + bucket + "." + plan.OpenPrefix + "*"}}
	_, err = stream.Read(ctx, o.js, bucketPrefix+bucket, lists, func(m *jetstream.RawStreamMsg) error {
		var list map[string]int
		if json.Unmarshal(m.Data, &list) != nil || len(list) == 0 {
			return nil // deleted, or empty
		}
		open.IDs = slices.AppendSeq(open.IDs, maps.Keys(list))
		open.lists = append(open.lists, found{message: jetstream.RawStreamMsg{Subject: strings.Clone(m.Subject), Sequence: m.Sequence}, rewritten: []byte("{}")})
		return nil
	})
	slices.Sort(open.IDs)
	return open, err
}

// StopPlans has no write plan go on by itself, until it is submitted again or an action is taken on it. What is pushed stays pushed. It returns
// ErrInUse when the worker writes runs by now.
func (o *Operator) StopPlans(ctx context.Context, open OpenPlans) error {
	if _, err := o.FindOpenPlans(ctx); err != nil {
		return err
	}
	e := Entry{Command: "plans stop", Count: len(open.IDs), Chosen: map[string]any{"plans": open.IDs[:min(len(open.IDs), maxRecorded)]}}
	return o.between(ctx, e, func() error {
		for _, f := range open.lists {
			switch changed, err := o.replace(ctx, f); {
			case err != nil:
				return err
			case changed:
				return errors.New("a plan was submitted meanwhile: stop what submits plans, and run the command again")
			}
		}
		return nil
	})
}
