package plan_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/plan"
)

// A service submits a plan until the worker has it, and waits for its end.
func Example() {
	submit := func(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, text []byte) error {
		p, err := plan.Parse(text)
		if err != nil {
			return err // every fault
		}
		if _, err := plan.Submit(ctx, nc, "codat", p); err != nil {
			return err // plan.ErrConflict, ErrRefused, ErrNoWorker, or submit it again
		}
		record, err := plan.Await(ctx, js, "codat", p.ID) // done, held or cancelled
		if err == nil && record.Status != plan.StatusDone {
			err = fmt.Errorf("plan %s is %s: headgate plans show tells why", p.ID, record.Status)
		}
		return err
	}
	nc, err := nats.Connect("nats://127.0.0.1:4222")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	text, fault := os.ReadFile("plan.json")
	if err := errors.Join(err, fault, submit(context.Background(), nc, js, text)); err != nil {
		fmt.Println(err)
	}
}
