package pgclaims_test

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers"
)

// bookings books every successful write. Without a pool it is the worker's shape only.
func bookings(pool *pgxpool.Pool) workers.Worker {
	return workers.Worker{
		Name:   "bookings",
		Claims: pgclaims.New(pool, "bookings", nil),
		Handlers: []workers.Handler{
			workers.Handle(codat.AnyWriteSuccessful, book),
		},
	}
}

// book writes with the transaction in which the event becomes done: there is a booking exactly if it is.
func book(ctx context.Context, e codat.Event[codat.Write]) error {
	tx, err := pgclaims.Tx(ctx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO bookings (company, push_operation) VALUES ($1, $2)`, e.Company, e.Payload.PushOperationKey())
	return err
}

// BookingSettings are a worker's settings with one of its own.
type BookingSettings struct {
	workers.Settings `embed:""`

	DatabaseURL string `name:"database-url" required:"" help:"The PostgreSQL database of the bookings; pool_max_conns=24 in it leaves room for 16 handlers."`
}

// runBookings is the Run of the worker's program: process.Main("worker-bookings", …, new(BookingSettings), runBookings).
func runBookings(ctx context.Context, s *BookingSettings, p *process.Process) error {
	pool, err := pgxpool.New(ctx, s.DatabaseURL)
	if err != nil {
		return process.Misconfigured(err)
	}
	defer pool.Close()
	p.Health.Add("database", pool.Ping)
	return workers.Run(ctx, s.Settings, p, bookings(pool), func(ctx context.Context, _ workers.Parts) (workers.Worker, error) {
		return bookings(pool), pgclaims.Provision(ctx, pool)
	})
}

// A worker that books every successful write in PostgreSQL, exactly once.
func Example() {
	process.Main("worker-bookings", "Books every successful write.", new(BookingSettings), runBookings)
}
