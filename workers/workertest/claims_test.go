package workertest

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/claimstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What holds for claims in memory holds for those that last: both pass the same suite.
func TestClaims(t *testing.T) {
	claimstest.Run(t, func(*testing.T) func(func() time.Time) claims.Store {
		c := newClaims(func(claims.Key, time.Duration) {})
		return func(now func() time.Time) claims.Store { return memoryClaims{c.store, now} }
	})
}
