package claims_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/claimstest"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestKVClaims(t *testing.T) {
	srv := streamtest.New(t)
	publisher, err := stream.NewPublisher(srv.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	n := 0
	claimstest.Run(t, func(t *testing.T) func(func() time.Time) claims.Store {
		n++
		kv, err := srv.JS.CreateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "claims_" + string(rune('a'+n))})
		if err != nil {
			t.Fatal(err)
		}
		return func(now func() time.Time) claims.Store { return claims.NewKV(kv, publisher, now) }
	})
}

// A bucket with a limit refuses new claims while it has room for the results of those that run.
func TestKV_KeepsRoomForResults(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	publisher, err := stream.NewPublisher(srv.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	bucket, err := srv.JS.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "claims_small", MaxBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	kv := claims.NewKV(bucket, publisher, nil)
	for i := range 4096 {
		key := claims.Key{WebhookID: strconv.Itoa(i)}
		_, err = kv.Take(t.Context(), key, claims.TakeRequest{Owner: key.WebhookID, Sequence: uint64(i + 1), Lease: time.Minute})
		if err != nil {
			break
		}
	}
	if !errors.Is(err, stream.ErrFull) || !strings.Contains(err.Error(), "headgate provision --claims-max-bytes") {
		t.Fatalf("Take in a full bucket = %v; want ErrFull and its cure", err)
	}
	for i := range 16 {
		if _, err := bucket.Create(t.Context(), "result-"+strconv.Itoa(i), make([]byte, 256)); err != nil {
			t.Fatalf("result %d after Take refused = %v; want room for it", i+1, err)
		}
	}
}

// A record of a host whose clock was an hour ahead holds its event no longer than it should.
func TestKV_ClockThatWasAheadHoldsNoEvent(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	publisher, err := stream.NewPublisher(srv.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	bucket, err := srv.JS.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "claims_ahead"})
	if err != nil {
		t.Fatal(err)
	}
	kv := claims.NewKV(bucket, publisher, nil)
	ahead := time.Now().Add(time.Hour)
	for name, record := range map[string]claims.Record{
		"running": {State: claims.Running, Attempts: 1, Owner: "other", Written: ahead, LeaseUntil: ahead.Add(-time.Minute)},
		"waiting": {State: claims.Waiting, Attempts: 1, Owner: "other", Written: ahead, Next: ahead},
	} {
		key := claims.Key{WebhookID: name}
		value, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bucket.Put(t.Context(), key.String(), value); err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Take(t.Context(), key, claims.TakeRequest{Owner: "we", Sequence: 1, Lease: time.Minute}); err != nil {
			t.Errorf("Take of a claim that is %s by a clock an hour ahead = %v; want it taken", name, err)
		}
	}
}

// A claim that is held while its bucket is deleted and made again is saved into the new one, unless another process has it.
func TestKV_SavesIntoABucketThatIsMadeAgain(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	publisher, err := stream.NewPublisher(srv.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	config := jetstream.KeyValueConfig{Bucket: "claims_again"}
	bucket, err := srv.JS.CreateKeyValue(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	losses := 0
	kv := claims.NewKV(bucket, publisher, nil)
	kv.NotifyLoss(func() { losses++ })
	take := func(kv *claims.KV, id, owner string) claims.Claim {
		claim, err := kv.Take(t.Context(), claims.Key{WebhookID: id}, claims.TakeRequest{Owner: owner, Sequence: 1, Lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return claim
	}
	ours, theirs := take(kv, "ours", "we"), take(kv, "theirs", "we")
	if err := srv.JS.DeleteKeyValue(t.Context(), config.Bucket); err != nil {
		t.Fatal(err)
	}
	if bucket, err = srv.JS.CreateKeyValue(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	another := claims.NewKV(bucket, publisher, nil)
	take(another, "first", "they")
	take(another, "theirs", "they") // with the revision that it had in the first bucket
	streamtest.Wait(t, func() bool {
		_, _ = kv.Take(t.Context(), claims.Key{WebhookID: "first"}, claims.TakeRequest{Owner: "we", Sequence: 1, Lease: time.Minute})
		return losses > 0
	}, "the loss is noticed")
	if _, err := kv.Save(t.Context(), theirs); !errors.Is(err, claims.ErrLost) {
		t.Errorf("Save of a claim that another process has taken = %v; want ErrLost", err)
	}
	ours.Record.State = claims.Done
	if _, err := kv.Save(t.Context(), ours); err != nil {
		t.Errorf("Save of a claim that only this process has = %v; want done", err)
	}
	if record, err := kv.Get(t.Context(), ours.Key); err != nil || record.State != claims.Done {
		t.Errorf("the record is %+v, %v; want done", record, err)
	}
	if losses != 1 {
		t.Errorf("the loss is noticed %d times; want once", losses)
	}
}
