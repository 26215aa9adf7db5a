package pgclaims

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/claims"
)

// ErrManaged is returned by Commit and Rollback of a handler's transaction, which do nothing: the return value of the handler
// decides. For a part that may be rolled back alone, use Begin of the transaction.
var ErrManaged = errors.New("the worker commits when the handler returns nil, and rolls back when it returns an error")

// sessionKey finds the session in a handler's context.
type sessionKey struct{}

// session is the transaction of one attempt, from the claim's Take to the Save that ends it.
type session struct {
	pool  *pgxpool.Pool
	lease time.Duration

	mu    sync.Mutex
	tx    pgx.Tx // nil before the handler calls Tx, and after end
	begun bool   // the handler called Tx
	ended bool   // the handler has returned
}

// Bind implements claims.Binder.
func (c *Store) Bind(ctx context.Context, claim claims.Claim) context.Context {
	return context.WithValue(ctx, sessionKey{}, claim.Session)
}

// Tx returns the transaction of the handler that ctx belongs to. The first call of an attempt begins it, and every call
// returns the same one. What the handler writes with it is committed together with the claim's done when the handler
// returns nil, and rolled back when it returns an error, panics or has lost its lease. When the commit fails, the attempt
// has failed. Commit and Rollback return ErrManaged. Like every pgx.Tx it is for one goroutine at a time.
//
// The isolation level is read committed: with a stricter one the claim could not be renewed while the handler runs. A
// handler that must read rows that do not change meanwhile locks them (SELECT … FOR UPDATE).
func Tx(ctx context.Context) (pgx.Tx, error) {
	s, _ := ctx.Value(sessionKey{}).(*session)
	if s == nil {
		return nil, errors.New("the context has no claim: call pgclaims.Tx with the handler's own context, in a worker whose Claims are pgclaims.New")
	}
	return s.begin(ctx)
}

func (s *session) begin(ctx context.Context) (pgx.Tx, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return nil, errors.New("the handler of this transaction has returned: call pgclaims.Tx only while it runs")
	case s.tx != nil:
		return managed{s.tx}, nil
	}
	query := "begin isolation level read committed"
	if deadline, ok := ctx.Deadline(); ok {
		// The server does not notice that a process was cut off, and would keep its locks, also on the claim. No attempt
		// needs its transaction after its timeout and the lease in which it is settled.
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

// end returns the transaction, which the caller must commit or roll back. It is nil when the handler had none, and after
// the first call. begun says whether the handler had one.
func (s *session) end() (tx pgx.Tx, begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, s.tx, s.ended = s.tx, nil, true
	return tx, s.begun
}

// rollback rolls a transaction back. When that fails, the connection is closed, which has the same effect.
func rollback(tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// managed is a transaction that the worker commits or rolls back, and not the handler.
type managed struct{ pgx.Tx }

func (managed) Commit(context.Context) error   { return ErrManaged }
func (managed) Rollback(context.Context) error { return ErrManaged }
