package workertest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/workertest"
)

// errClosed is what the ledger of the example answers at night.
var errClosed = errors.New("the ledger is closed")

// A ledger is what the worker of the example writes to; in its test it is a fake.
type ledger interface {
	Book(ctx context.Context, key string) error
}

// bookings is the worker under test: at night it comes back in the morning.
func bookings(l ledger) workers.Worker {
	return workers.Worker{Name: "bookings", Handlers: []workers.Handler{
		workers.Handle(codat.AnyWriteSuccessful, func(ctx context.Context, e codat.Event[codat.Write]) error {
			err := l.Book(ctx, e.Payload.PushOperationKey())
			if errors.Is(err, errClosed) {
				return workers.RetryAfter(8*time.Hour, err)
			}
			return err
		}),
	}}
}

// nightly is a ledger that is closed the first time.
type nightly struct{ calls int }

func (n *nightly) Book(context.Context, string) error {
	if n.calls++; n.calls == 1 {
		return errClosed
	}
	return nil
}

// The test of a worker whose ledger is closed at night: eight hours pass in no time.
func Example() {
	var t *testing.T // the test's own
	res := workertest.Run(t, bookings(&nightly{}), workertest.Example(t, "invoices.write.successful"))
	if res.Outcome != workertest.Done || len(res.Attempts) != 2 || res.Attempts[0].Wait != 8*time.Hour {
		t.Errorf("a booking at night: got %s\nwant it done in the morning", res)
	}
}

// TestExample is the example, run.
func TestExample(t *testing.T) {
	res := workertest.Run(t, bookings(&nightly{}), workertest.Example(t, "invoices.write.successful"))
	if res.Outcome != workertest.Done || len(res.Attempts) != 2 || res.Attempts[0].Wait != 8*time.Hour {
		t.Errorf("a booking at night: got %s\nwant it done in the morning", res)
	}
}
