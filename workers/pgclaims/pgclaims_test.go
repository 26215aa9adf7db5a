package pgclaims_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/claimstest"
	"github.com/headgate/headgate/workers/pgclaims"
	"github.com/headgate/headgate/workers/pgclaims/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClaims(t *testing.T) {
	pool := pgtest.New(t).Pool(t)
	if err := pgclaims.Provision(context.Background(), pool); err != nil {
		t.Fatal(err)
	}
	n := 0
	claimstest.Run(t, func(*testing.T) func(func() time.Time) workers.Claims {
		n++ // the claims of one worker are an empty store to another
		worker := fmt.Sprintf("worker-%d", n)
		return func(now func() time.Time) workers.Claims { return pgclaims.New(pool, worker, now) }
	})
}
