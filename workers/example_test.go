package workers_test

import (
	"context"
	"errors"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers"
)

// The README shows this worker; a test compares the two.

func Worker(ledger Ledger) workers.Worker {
	return workers.Worker{
		Name: "bookkeeper",
		Handlers: []workers.Handler{
			workers.Handle(codat.InvoicesWriteSuccessful, func(ctx context.Context, e codat.Event[codat.Write]) error {
				switch err := ledger.Booked(ctx, e.Payload.PushOperationKey(), e.WebhookID); {
				case errors.Is(err, ErrUnknownInvoice):
					return workers.Permanent(err) // a dead letter now
				case errors.Is(err, ErrLedgerDown):
					return workers.Unavailable(err) // pause; counts no attempt
				default:
					return err // nil is done; any other error is tried again, then a dead letter
				}
			}),
		},
	}
}

func Run(ctx context.Context, s *workers.Settings, p *process.Process) error {
	ledger := OpenLedger()
	return workers.Run(ctx, *s, p, Worker(ledger), func(context.Context, workers.Parts) (workers.Worker, error) {
		return Worker(ledger), nil
	})
}

// Ledger is the example's own system.
type Ledger struct{}

var (
	ErrUnknownInvoice = errors.New("the invoice is unknown")
	ErrLedgerDown     = errors.New("the ledger is down")
)

func OpenLedger() Ledger { return Ledger{} }

func (Ledger) Booked(context.Context, string, string) error { return nil }

func Example() {
	process.Main("worker-bookkeeper", "Books what was written.", new(workers.Settings), Run)
}
