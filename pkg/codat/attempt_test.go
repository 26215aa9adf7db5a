package codat_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
)

func TestAttemptAfter(t *testing.T) {
	t.Parallel()
	for after, want := range map[string]int{
		"-2m": 0, "-1s": 1, "0s": 1, "1s": 1, "5s": 2, "1m": 2, "5m5s": 3, "6m30s": 3, "35m5s": 4, "42m": 4,
		"2h35m5s": 5, "7h35m5s": 6, "17h35m5s": 7, "27h35m5s": 8, "33h": 8, "40h": 0,
	} {
		d, err := time.ParseDuration(after)
		if err != nil {
			t.Fatal(err)
		}
		if got := codat.AttemptAfter(d); got != want {
			t.Errorf("AttemptAfter(%s) = %d; want %d", after, got, want)
		}
	}
}
