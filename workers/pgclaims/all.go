package pgclaims

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/headgate/headgate/workers"
)

// All calls each with every claim of the worker, by workers.Key.String and with its revision, as they stand together at
// one moment: for audits. A record that cannot be read comes with the state "unreadable".
func (c *Claims) All(ctx context.Context, each func(key string, revision uint64, r workers.Record) error) error {
	doing := func(err error) error { return fmt.Errorf("reading claims of %s: %w", c.worker, explain(err)) }
	rows, err := c.pool.Query(ctx, `SELECT key, revision, record FROM headgate_claims WHERE worker = $1`, c.worker)
	if err != nil {
		return doing(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		var revision int64
		var value []byte
		if err := rows.Scan(&key, &revision, &value); err != nil {
			return doing(err)
		}
		var r workers.Record
		if json.Unmarshal(value, &r) != nil {
			r = workers.Record{State: "unreadable"}
		}
		if err := each(key, uint64(revision), r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return doing(err)
	}
	return nil
}
