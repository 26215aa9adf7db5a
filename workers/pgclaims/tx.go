package pgclaims

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/workers"
)

// ErrManaged is what Commit and Rollback of a handler's transaction return. They do nothing: what the handler returns
// decides. A part of it that may be undone alone is a transaction of its own, which Begin of the transaction gives.
var ErrManaged = errors.New("the worker commits when the handler returns nil, and rolls back when it returns an error")

// sessionKey finds the session in a handler's context.
type sessionKey struct{}

// session is the transaction of one attempt, from the claim's Take to the Save that ends it.
type session struct {
	pool  *pgxpool.Pool
	lease time.Duration

	mu    sync.Mutex
	tx    pgx.Tx // nil before the handler asked for it, and when somebody has taken it to its end
	begun bool   // the handler had a transaction
	ended bool   // the handler has returned: it gets none any more
}

// Bind implements workers.Binder.
func (c *Claims) Bind(ctx context.Context, claim workers.Claim) context.Context {
	return context.WithValue(ctx, sessionKey{}, claim.Session)
}

// Tx is the transaction of the handler that ctx belongs to, begun when it is first asked for; every call of one attempt
// returns the same. What the handler writes with it is committed together with the claim's `done` when the handler
// returns nil, and undone when it returns an error, panics, or has lost its lease. When the commit fails, the attempt
// has failed. Commit and Rollback return ErrManaged. Like every pgx.Tx it is for one goroutine at a time.
//
// The isolation level is read committed: a stricter one would keep the claim from being renewed while the handler runs.
// A handler that must read what nobody changes meanwhile locks it (SELECT … FOR UPDATE).
func Tx(ctx context.Context) (pgx.Tx, error) {
	s, _ := ctx.Value(sessionKey{}).(*session)
	if s == nil {
		return nil, errors.New("no claim in this context: call pgclaims.Tx with the context that the handler got, in a worker whose Claims are pgclaims.New")
	}
	return s.begin(ctx)
}

func (s *session) begin(ctx context.Context) (pgx.Tx, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return nil, errors.New("the handler that this transaction was for has returned")
	case s.tx != nil:
		return managed{s.tx}, nil
	}
	query := "begin isolation level read committed"
	if deadline, ok := ctx.Deadline(); ok {
		// The server does not notice that a process was cut off, and would keep its locks, also the claim's. No
		// attempt needs its transaction after its time and the lease in which it is settled.
		idle := max(time.Until(deadline), 0) + s.lease
		query += fmt.Sprintf("; set local idle_in_transaction_session_timeout = %d", idle.Milliseconds())
	}
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: query})
	if err != nil {
		stat := s.pool.Stat()
		return nil, fmt.Errorf("transaction for the handler (%d of the pool's %d connections are in use): %w", stat.AcquiredConns(), stat.MaxConns(), err)
	}
	s.tx, s.begun = tx, true
	return managed{tx}, nil
}

// end hands the transaction to who brings it to its end; it is nil when there was none, or somebody else has had it.
func (s *session) end() (tx pgx.Tx, begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, s.tx, s.ended = s.tx, nil, true
	return tx, s.begun
}

// rollback ends a transaction. When that does not arrive its connection is closed, which does the same.
func rollback(tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// managed is a transaction that the worker ends, and not the handler.
type managed struct{ pgx.Tx }

func (managed) Commit(context.Context) error   { return ErrManaged }
func (managed) Rollback(context.Context) error { return ErrManaged }
