package workers_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/claimstest"
)

func TestKVClaims(t *testing.T) {
	srv := streamtest.New(t)
	publisher, err := stream.NewPublisher(srv.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	n := 0
	claimstest.Run(t, func(t *testing.T) func(func() time.Time) workers.Claims {
		n++
		kv, err := srv.JS.CreateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "claims_" + string(rune('a'+n))})
		if err != nil {
			t.Fatal(err)
		}
		return func(now func() time.Time) workers.Claims { return workers.NewKVClaims(kv, publisher, now) }
	})
}
