package pgclaims_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/pgclaims"
)

func TestAll_ReturnsEveryClaimOfTheWorker(t *testing.T) {
	r := newFixture(t)
	ctx := context.Background()
	store := pgclaims.New(r.pool, "listed", nil)
	want := map[string]uint64{}
	for _, k := range []claims.Key{{WebhookID: "msg_1"}, {WebhookID: "msg_2"}, {WebhookID: "msg_1", Redrive: "monday"}} {
		claim, err := store.Take(ctx, k, claims.TakeRequest{Owner: "a", Source: "codat-uk", Sequence: 7, Lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if k.Redrive != "" {
			claim.Record = claims.Record{State: claims.Done, Source: claim.Record.Source, Sequence: 7}
			if claim, err = store.Save(ctx, claim); err != nil {
				t.Fatal(err)
			}
		}
		want[k.String()] = claim.Revision
	}
	if _, err := pgclaims.New(r.pool, "another", nil).Take(ctx, claims.Key{WebhookID: "msg_3"}, claims.TakeRequest{Owner: "a", Lease: time.Minute}); err != nil {
		t.Fatal(err)
	}
	got := 0
	err := store.All(ctx, func(key string, revision uint64, record claims.Record) error {
		got++
		if want[key] != revision || record.State == "" || record.Sequence != 7 || record.Source != "codat-uk" || time.Since(record.First).Abs() > time.Hour {
			t.Errorf("All gives %s at %d: %+v; want one of %v", key, revision, record, want)
		}
		return nil
	})
	if err != nil || got != len(want) {
		t.Errorf("All = %v after %d; want %d", err, got, len(want))
	}
	enough := errors.New("enough")
	if err := store.All(ctx, func(string, uint64, claims.Record) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("All = %v; want what the callback said", err)
	}
}
