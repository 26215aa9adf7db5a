package workertest

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/claimstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What holds for claims in memory holds for those that last: both pass the same suite.
func TestClaims(t *testing.T) {
	claimstest.Run(t, func(*testing.T) func(func() time.Time) workers.Claims {
		c := newClaims(func(workers.Key, time.Duration) {})
		return func(now func() time.Time) workers.Claims { return claims{c.store, now} }
	})
}
