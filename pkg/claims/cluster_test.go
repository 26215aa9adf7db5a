//go:build faults

package claims_test

import (
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// In a cluster, the server does not subtract what an update replaces: a bucket without room refuses also done.
func TestFaults_FullBucketTakesTheResultsOfWhatRuns(t *testing.T) {
	c := streamtest.NewCluster(t)
	spec := stream.WorkerSpec{Name: "tested"}
	streamtest.Provision(t, c.JS, stream.Layout{Source: streamtest.Source, Replicas: 3, ClaimsMaxBytes: 256 << 10, Workers: []stream.WorkerSpec{spec}})
	c.WaitReady()
	publisher, err := stream.NewPublisher(c.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	bucket, err := c.JS.KeyValue(t.Context(), streamtest.Source.ClaimsBucket("tested"))
	if err != nil {
		t.Fatal(err)
	}
	kv := claims.NewKV(bucket, publisher, nil)
	var running []claims.Claim
	for i := range 4096 {
		key := claims.Key{WebhookID: strconv.Itoa(i)}
		claim, err := kv.Take(t.Context(), key, claims.TakeRequest{Owner: key.WebhookID, Sequence: uint64(i + 1), Lease: time.Minute})
		if err != nil {
			break
		}
		running = append(running, claim)
	}
	for _, claim := range running[len(running)-32:] {
		claim.Record = claims.Record{State: claims.Done, Sequence: claim.Record.Sequence, Attempts: 1, Owner: claim.Record.Owner}
		if _, err := kv.Save(t.Context(), claim); err != nil {
			t.Fatalf("Save of claim %s in a full bucket = %v; want done", claim.Key.WebhookID, err)
		}
	}
}

// A server with the only copy of a bucket makes it anew, empty and with the old time, when it comes back without its disk.
func TestFaults_NoticesABucketThatAServerMadeAnew(t *testing.T) {
	c := streamtest.NewCluster(t)
	publisher, err := stream.NewPublisher(c.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	bucket, err := c.JS.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "claims_alone", Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	kv := claims.NewKV(bucket, publisher, nil)
	var lost atomic.Bool
	kv.NotifyLoss(func() { lost.Store(true) })
	var held claims.Claim
	for i := range 200 {
		key := claims.Key{WebhookID: strconv.Itoa(i)}
		if held, err = kv.Take(t.Context(), key, claims.TakeRequest{Owner: key.WebhookID, Sequence: uint64(i + 1), Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	node := c.LeaderOf("KV_claims_alone")
	c.Wipe(node)
	held.Record.State = claims.Done
	streamtest.Wait(t, func() bool {
		_, err := kv.Save(t.Context(), held)
		return err == nil
	}, "the claim is saved into the new bucket")
	// Each Take is a write: as many as there were claims would hide the loss.
	var taken time.Time
	streamtest.Wait(t, func() bool {
		if time.Since(taken) < 200*time.Millisecond {
			return lost.Load()
		}
		taken = time.Now()
		_, err := kv.Take(t.Context(), claims.Key{WebhookID: "next"}, claims.TakeRequest{Owner: "next", Sequence: 201, Lease: time.Minute})
		var held *claims.BusyError
		if err != nil && !errors.As(err, &held) {
			t.Log(err)
		}
		return lost.Load()
	}, "the loss is noticed")
	if record, err := kv.Get(t.Context(), held.Key); err != nil || record.State != claims.Done {
		t.Errorf("the record is %+v, %v; want done", record, err)
	}
}
