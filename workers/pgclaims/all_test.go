package pgclaims_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/pgclaims"
)

func TestAllGivesEveryClaimOfTheWorker(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	claims := pgclaims.New(r.pool, "listed", nil)
	want := map[string]uint64{}
	for _, k := range []workers.Key{{WebhookID: "msg_1"}, {WebhookID: "msg_2"}, {WebhookID: "msg_1", Redrive: "monday"}} {
		claim, err := claims.Take(ctx, k, workers.Taking{Owner: "a", Sequence: 7, Lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		want[k.String()] = claim.Revision
	}
	if _, err := pgclaims.New(r.pool, "another", nil).Take(ctx, workers.Key{WebhookID: "msg_3"}, workers.Taking{Owner: "a", Lease: time.Minute}); err != nil {
		t.Fatal(err)
	}
	got := 0
	err := claims.All(ctx, func(key string, revision uint64, record workers.Record) error {
		got++
		if want[key] != revision || record.State != workers.Running || record.Sequence != 7 {
			t.Errorf("All gives %s at %d: %+v; want one of %v", key, revision, record, want)
		}
		return nil
	})
	if err != nil || got != len(want) {
		t.Errorf("All = %v after %d; want %d", err, got, len(want))
	}
	enough := errors.New("enough")
	if err := claims.All(ctx, func(string, uint64, workers.Record) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("All = %v; want what the callback said", err)
	}
}
