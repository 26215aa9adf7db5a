//go:build faults

package stream_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The leader of a consumer moves again and again while events come. Without heartbeats a request that was lost with the
// leader would wait for minutes.
func TestFaults_PullGoesOnWhenTheLeaderMoves(t *testing.T) {
	t.Parallel()
	const moves = 20
	c := streamtest.NewCluster(t)
	consumer := slowConsumer(t, c.JS, 3)
	var handled atomic.Int64
	runPull(t, consumer, stream.PullOptions{Slots: 4, Expiry: 10 * time.Minute, Begin: func(_ context.Context, m jetstream.Msg, done func()) {
		defer done()
		if m.Ack() == nil {
			handled.Add(1)
		}
	}})
	var longest time.Duration
	for i := range moves {
		streamtest.Wait(t, func() bool { // a leader that was just elected may not answer: the request is sent again
			_, err := c.NC.Request("$JS.API.CONSUMER.LEADER.STEPDOWN."+codatSource.Stream()+".slow", nil, 2*time.Second)
			return err == nil
		}, "the leader to step down")
		began, want := time.Now(), handled.Load()+1
		streamtest.Wait(t, func() bool {
			_, err := c.JS.PublishMsg(within(t, patience), event(t, fmt.Sprintf("msg_%d_%d", i, time.Since(began))))
			return err == nil && handled.Load() >= want
		}, "an event to be handled")
		longest = max(longest, time.Since(began))
	}
	t.Logf("the longest standstill of %d moves: %v", moves, longest)
}
