//go:build faults

package streamtest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestCluster_Faults_ContinuesWithoutLeader(t *testing.T) {
	c := streamtest.NewCluster(t)
	leader := c.LeaderOf("CODAT")
	publish(t, c.JS, "msg_1")

	c.Kill(leader)
	publish(t, c.JS, "msg_2")
	if now := c.LeaderOf("CODAT"); now == leader {
		t.Errorf("LeaderOf() = %d; want another than the one that was killed", now)
	}

	c.Restart(leader)
	c.WaitReady()
	c.Kill((leader + 1) % streamtest.Nodes)
	publish(t, c.JS, "msg_3")
	st, err := c.JS.Stream(t.Context(), "CODAT")
	if err != nil {
		t.Fatal(err)
	}
	if n := st.CachedInfo().State.Msgs; n != 3 {
		t.Errorf("stored %d messages; want 3", n)
	}
}

func TestCluster_Faults_ReplacesAnIsolatedLeader(t *testing.T) {
	c := streamtest.NewCluster(t)
	leader := c.LeaderOf("CODAT")
	c.Isolate(leader)
	publish(t, c.JS, "msg_1")
	c.Join(leader)
	c.WaitReady()
	publish(t, c.JS, "msg_2")
}

// publish tries until the stream takes the message.
func publish(t *testing.T, js jetstream.JetStream, id string) {
	t.Helper()
	var err error
	streamtest.Wait(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err = js.Publish(ctx, "codat.events.company.created", []byte("{}"), jetstream.WithMsgID(id))
		return err == nil
	}, fmt.Sprintf("%s is stored", id))
}
