package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The statuses of an expense.
const (
	draft      = "Draft" // stored, and perhaps submitted
	inProgress = "Push in progress"
	complete   = "Push complete"
	failed     = "Push failed"
)

// An expense is a row of the table.
type expense struct {
	ID          string      `json:"id"`
	Description string      `json:"description"`
	Amount      json.Number `json:"amount"`
	Account     string      `json:"account"` // its name
	CreatedAt   time.Time   `json:"created_at"`

	Plan string `json:"plan"` // its id
	outcome
	UpdatedAt time.Time `json:"updated_at"`
}

// An outcome is what became of an expense so far.
type outcome struct {
	Status           string `json:"status"`
	PushOperationKey string `json:"push_operation_key,omitempty"`
	AccountRecord    string `json:"account_record,omitempty"`
	CostRecord       string `json:"cost_record,omitempty"`
	Reason           string `json:"reason,omitempty"`
}

// columns are those of an expense, in the order of its fields.
const columns = `id, description, amount::text, account, created_at,
	plan, status, push_operation_key, account_record, cost_record, reason, updated_at`

// expenses is the table.
type expenses struct{ pool *pgxpool.Pool }

// create stores a draft. It is committed when create returns.
func (t expenses) create(ctx context.Context, description, amount, account string) (expense, error) {
	return one(t.pool.Query(ctx, `INSERT INTO expenses (description, amount, account) VALUES ($1, $2::text::numeric, $3)
		RETURNING `+columns, description, amount, account))
}

// get returns the expense with an id. The error is pgx.ErrNoRows without one.
func (t expenses) get(ctx context.Context, id string) (expense, error) {
	return one(t.pool.Query(ctx, `SELECT `+columns+` FROM expenses WHERE id = $1`, id))
}

// newest returns up to 100 expenses.
func (t expenses) newest(ctx context.Context) ([]expense, error) {
	return all(t.pool.Query(ctx, `SELECT `+columns+` FROM expenses ORDER BY created_at DESC LIMIT 100`))
}

// open returns the expenses that can still change. One that failed is among them for a week: an operator may let its plan
// go on with headgate plans retry.
func (t expenses) open(ctx context.Context) ([]expense, error) {
	return all(t.pool.Query(ctx, `SELECT `+columns+` FROM expenses WHERE status IN ('Draft', 'Push in progress')
		OR status = 'Push failed' AND updated_at > now() - interval '7 days' ORDER BY created_at`))
}

// update stores an outcome. Complete is for ever: a plan's record can be read from a server that lags behind, and what this
// stores then is put right by the next read.
func (t expenses) update(ctx context.Context, id string, o outcome) error {
	_, err := t.pool.Exec(ctx, `UPDATE expenses
		SET status = $2, push_operation_key = $3, account_record = $4, cost_record = $5, reason = $6, updated_at = now()
		WHERE id = $1 AND status <> 'Push complete'
		AND (status, push_operation_key, account_record, cost_record, reason) IS DISTINCT FROM ($2, $3, $4, $5, $6)`,
		id, o.Status, o.PushOperationKey, o.AccountRecord, o.CostRecord, o.Reason)
	return err
}

func one(rows pgx.Rows, err error) (expense, error) {
	if err != nil {
		return expense{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[expense])
}

func all(rows pgx.Rows, err error) ([]expense, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[expense])
}
