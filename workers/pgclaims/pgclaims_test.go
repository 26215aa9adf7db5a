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

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/claimstest"
	"github.com/headgate/headgate/workers/pgclaims"
)

func TestClaims(t *testing.T) {
	pool := newRig(t).pool
	n := 0
	claimstest.Run(t, func(*testing.T) func(func() time.Time) workers.Claims {
		n++ // the claims of one worker are an empty store to another
		worker := fmt.Sprintf("worker-%d", n)
		return func(now func() time.Time) workers.Claims { return pgclaims.New(pool, worker, now) }
	})
}

func TestProvision(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	if _, err := r.pool.Exec(ctx, `CREATE SCHEMA apart`); err != nil {
		t.Fatal(err)
	}
	pool := r.Pool(t, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["search_path"] = "apart" })

	claims := pgclaims.New(pool, "early", nil)
	_, err := claims.Take(ctx, workers.Key{WebhookID: "msg_1"}, workers.Taking{Owner: "a", Lease: time.Minute})
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
	claim, err := claims.Take(ctx, workers.Key{WebhookID: "msg_1"}, workers.Taking{Owner: "a", Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := pgclaims.Provision(ctx, pool); err != nil {
		t.Errorf("Provision again = %v", err)
	}
	if _, err := claims.Look(ctx, claim.Key); err != nil {
		t.Errorf("Look after Provision again = %v; want the claim still there", err)
	}

	careless := r.Pool(t, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["synchronous_commit"] = "off" })
	if err := pgclaims.Provision(ctx, careless); err == nil || !strings.Contains(err.Error(), "synchronous_commit is off") {
		t.Errorf("Provision where commits are not durable = %v; want it refused", err)
	}
}

func TestForget(t *testing.T) {
	pool, ctx := newRig(t).pool, context.Background()
	const day = 24 * time.Hour
	clock := &claimstest.Clock{}
	claims, others := pgclaims.New(pool, "forgetful", clock.Now), pgclaims.New(pool, "mindful", clock.Now)
	old, recent := workers.Key{WebhookID: "old"}, workers.Key{WebhookID: "recent"}
	take := func(c *pgclaims.Claims, k workers.Key) {
		t.Helper()
		if _, err := c.Take(ctx, k, workers.Taking{Owner: "a", Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	take(claims, old)
	take(others, old)
	clock.Step(20 * day)
	take(claims, recent)
	clock.Step(4 * day)

	if _, err := claims.Forget(ctx, 23*day-1); err == nil {
		t.Error("Forget before 23 days = nil; want it refused: events are kept for 16, and may wait for a week")
	}
	if n, err := claims.Forget(ctx, 23*day); n != 1 || err != nil {
		t.Errorf("Forget = %d, %v; want 1", n, err)
	}
	for _, tt := range []struct {
		name   string
		claims *pgclaims.Claims
		key    workers.Key
		want   error
	}{
		{"an old one", claims, old, workers.ErrNoClaim},
		{"a recent one", claims, recent, nil},
		{"another worker's", others, old, nil},
	} {
		if _, err := tt.claims.Look(ctx, tt.key); !errors.Is(err, tt.want) {
			t.Errorf("%s: Look = %v; want %v", tt.name, err, tt.want)
		}
	}
}

// An operator finds the row of a webhook-id with the query that the schema's comment gives.
func TestRowOfAWebhookID(t *testing.T) {
	pool, ctx := newRig(t).pool, context.Background()
	if _, err := pgclaims.New(pool, "ledger", nil).Take(ctx, workers.Key{WebhookID: "msg_1"}, workers.Taking{Owner: "a", Lease: time.Minute}); err != nil {
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

// Handlers that wait for each other's connections would lose their leases: a worker says so before it begins.
func TestAPoolThatIsTooSmallIsRefused(t *testing.T) {
	r := newRig(t)
	pool := r.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 23 })
	w := worker("crowded", pool, func(context.Context, codat.Event[codat.Write]) error { return nil })
	srv := streamtest.New(t, w.Plan())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := run(ctx, srv.URL, zaptest.NewLogger(t), w)
	if process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "the pool of crowded has 23 connections, and needs 24") ||
		!strings.Contains(err.Error(), "pool_max_conns=24") || !strings.Contains(err.Error(), "--concurrency") {
		t.Errorf("Run = %v; want it misconfigured, and the cure", err)
	}
	w.Concurrency = 15
	start(t, srv.URL, w)
	post(t, srv.JS, "msg_1")
	r.waitEnd(t, srv, "crowded", "msg_1", workers.Done)
}
