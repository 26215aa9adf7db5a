package pgclaims_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/claimstest"
	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestClaims(t *testing.T) {
	pool := newFixture(t).pool
	n := 0
	claimstest.Run(t, func(*testing.T) func(func() time.Time) claims.Store {
		n++ // the claims of one worker are an empty store to another
		worker := fmt.Sprintf("worker-%d", n)
		return func(now func() time.Time) claims.Store { return pgclaims.New(pool, worker, now) }
	})
}

// In transaction mode, PgBouncer gives each transaction any of its connections: what a connection has prepared is not there.
func TestClaims_ThroughPgBouncer(t *testing.T) {
	r := newFixture(t)
	bouncer := r.PgBouncer(t)
	bouncer.DSN += " default_query_exec_mode=exec" // as docs/add-a-worker.md says
	pool := bouncer.Pool(t)
	n := 0
	claimstest.Run(t, func(*testing.T) func(func() time.Time) claims.Store {
		n++
		worker := fmt.Sprintf("worker-%d", n)
		return func(now func() time.Time) claims.Store { return pgclaims.New(pool, worker, now) }
	})

	if err := pgclaims.Provision(t.Context(), pool); err != nil {
		t.Errorf("Provision = %v", err)
	}
	store := pgclaims.New(pool, "pooled", nil)
	claim := (&holder{Store: store}).take(t, claims.Key{WebhookID: "msg_1"})
	tx, err := effect(store.Bind(t.Context(), claim), "pooled", "msg_1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT 1`); err != nil {
		t.Errorf("a second statement of the handler = %v", err)
	}
	if _, err := store.Save(t.Context(), as(claim, claims.Done)); err != nil {
		t.Errorf("Save(done) = %v", err)
	}
	if got := r.effects("pooled", "msg_1"); got != 1 {
		t.Errorf("%d effects; want 1", got)
	}
	all := 0
	if err := store.All(t.Context(), func(string, uint64, claims.Record) error { all++; return nil }); err != nil || all != 1 {
		t.Errorf("All = %v after %d claims; want 1", err, all)
	}
	if _, err := store.Forget(t.Context(), 24*24*time.Hour); err != nil {
		t.Errorf("Forget = %v", err)
	}
}

// PgBouncer before 1.21 does not know prepared statements.
func TestClaims_NameTheCureForPreparedStatements(t *testing.T) {
	r := newFixture(t)
	pool := r.PgBouncer(t).Pool(t)
	store := pgclaims.New(pool, "prepared", nil)
	other, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	get := func() error {
		_, err := store.Get(t.Context(), claims.Key{WebhookID: "msg_1"})
		return err
	}
	if err := get(); !errors.Is(err, claims.ErrNoClaim) {
		t.Fatalf("the first Get, which prepares = %v; want %v", err, claims.ErrNoClaim)
	}
	tx, err := other.Begin(t.Context()) // has the connection on which it was prepared
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if err := get(); !errors.Is(err, claims.ErrNoClaim) && !strings.Contains(err.Error(), "default_query_exec_mode=exec") {
		t.Errorf("Get on another connection = %v; want %v, or the setting that cures it", err, claims.ErrNoClaim)
	}
}

func TestProvision(t *testing.T) {
	r := newFixture(t)
	ctx := context.Background()
	if _, err := r.pool.Exec(ctx, `CREATE SCHEMA apart`); err != nil {
		t.Fatal(err)
	}
	pool := r.Pool(t, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["search_path"] = "apart" })

	store := pgclaims.New(pool, "early", nil)
	_, err := store.Take(ctx, claims.Key{WebhookID: "msg_1"}, claims.TakeRequest{Owner: "a", Lease: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "call pgclaims.Provision once") {
		t.Errorf("Take before Provision = %v; want it to name the cure", err)
	}

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := pgclaims.Provision(ctx, pool); err != nil {
				t.Errorf("one of many Provisions at once = %v", err)
			}
		})
	}
	wg.Wait()
	claim, err := store.Take(ctx, claims.Key{WebhookID: "msg_1"}, claims.TakeRequest{Owner: "a", Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := pgclaims.Provision(ctx, pool); err != nil {
		t.Errorf("Provision again = %v", err)
	}
	if _, err := store.Get(ctx, claim.Key); err != nil {
		t.Errorf("Look after Provision again = %v; want the claim still there", err)
	}

	careless := r.Pool(t, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["synchronous_commit"] = "off" })
	if err := pgclaims.Provision(ctx, careless); err == nil || !strings.Contains(err.Error(), "synchronous_commit is off") {
		t.Errorf("Provision where commits are not durable = %v; want it refused", err)
	}
}

func TestForget(t *testing.T) {
	pool, ctx := newFixture(t).pool, context.Background()
	const day = 24 * time.Hour
	clock := &claimstest.Clock{}
	store, others := pgclaims.New(pool, "forgetful", clock.Now), pgclaims.New(pool, "mindful", clock.Now)
	old, recent := claims.Key{WebhookID: "old"}, claims.Key{WebhookID: "recent"}
	take := func(c *pgclaims.Store, k claims.Key) {
		t.Helper()
		if _, err := c.Take(ctx, k, claims.TakeRequest{Owner: "a", Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	take(store, old)
	take(others, old)
	clock.Step(20 * day)
	take(store, recent)
	clock.Step(4 * day)

	if _, err := store.Forget(ctx, 23*day-1); err == nil {
		t.Error("Forget before 23 days = nil; want it refused: events are kept for 16, and may wait for a week")
	}
	if n, err := store.Forget(ctx, 23*day); n != 1 || err != nil {
		t.Errorf("Forget = %d, %v; want 1", n, err)
	}
	for _, tt := range []struct {
		name  string
		store *pgclaims.Store
		key   claims.Key
		want  error
	}{
		{"an old one", store, old, claims.ErrNoClaim},
		{"a recent one", store, recent, nil},
		{"another worker's", others, old, nil},
	} {
		if _, err := tt.store.Get(ctx, tt.key); !errors.Is(err, tt.want) {
			t.Errorf("%s: Look = %v; want %v", tt.name, err, tt.want)
		}
	}
}

// An operator finds the row of a webhook-id with the query that the schema's comment gives.
func TestStore_RowOfAWebhookID(t *testing.T) {
	pool, ctx := newFixture(t).pool, context.Background()
	if _, err := pgclaims.New(pool, "ledger", nil).Take(ctx, claims.Key{WebhookID: "msg_1"}, claims.TakeRequest{Owner: "a", Lease: time.Minute}); err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	_, query, _ := strings.Cut(string(schema), "--   SELECT")
	query, _, _ = strings.Cut(query, ";")
	var record string
	if err := pool.QueryRow(ctx, "SELECT"+strings.ReplaceAll(query, "\n--", "\n")).Scan(&record); err != nil {
		t.Fatalf("the query of schema.sql: %v", err)
	}
	if !strings.Contains(record, `"state":"running"`) {
		t.Errorf("record = %s; want it running", record)
	}
}

// Handlers that wait for each other's connections would lose their leases, so Run refuses such a pool before it takes events.
func TestCheckCapacity_RefusesAPoolThatIsTooSmall(t *testing.T) {
	r := newFixture(t)
	pool := r.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 23 })
	w := worker("busy-pool", pool, func(context.Context, codat.Event[codat.Write]) error { return nil })
	srv := streamtest.New(t, w.Spec())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := run(ctx, srv.URL, zaptest.NewLogger(t), w)
	if process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "worker busy-pool has 23 connections and needs 24") ||
		!strings.Contains(err.Error(), "pool_max_conns=24") || !strings.Contains(err.Error(), "--concurrency") {
		t.Errorf("Run = %v; want it misconfigured, and the cure", err)
	}
	w.Concurrency = 15
	start(t, srv.URL, w)
	post(t, srv.JS, "msg_1")
	r.waitEnd(t, srv, "busy-pool", "msg_1", claims.Done)
}
