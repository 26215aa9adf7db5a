//go:build faults

package stream_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A node loses its peers and keeps its clients, once as the leader of the stream and once as a follower. All of them go on
// at another node although it does not come back.
func TestFaults_ClientsLeaveAServerThatHasLostItsPeers(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			c := streamtest.NewCluster(t)
			node := c.LeaderOf("CODAT")
			if role == "follower" {
				node = (node + 1) % streamtest.Nodes
			}
			connection := func(name string) (*nats.Conn, jetstream.JetStream) {
				nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: c.URL}, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(nc.Close)
				js, err := jetstream.New(nc)
				if err != nil {
					t.Fatal(err)
				}
				return nc, js
			}
			publishing, _ := connection("ingress")
			checking, checks := connection("idle")
			durable, billing := connection("billing")
			inOrder, viewing := connection("viewer")
			for _, nc := range []*nats.Conn{publishing, checking, durable, inOrder} {
				c.MoveTo(nc, node)
			}
			p := publisher(t, publishing, stream.PublisherOptions{})
			services := map[string]*service[codat.Write]{
				"durable":  serve(t, billing, codat.AnyWriteSuccessful, stream.Subscription{Durable: "billing", Begin: stream.BeginAll()}, fine[codat.Write]),
				"in order": serve(t, viewing, codat.AnyWriteSuccessful, stream.Subscription{Begin: stream.BeginAll()}, fine[codat.Write]),
			}
			if _, err := p.Publish(within(t, patience), event(t, "msg_before")); err != nil {
				t.Fatal(err)
			}
			for name, s := range services {
				streamtest.Wait(t, func() bool { return len(s.ids()) > 0 }, name+": the first event")
			}

			c.LosePeers(node)
			began := time.Now()
			if _, err := p.Publish(within(t, 2*patience), event(t, "msg_after")); err != nil {
				t.Errorf("Publish() = %v; want it stored by the other nodes", err)
			}
			t.Logf("published after %v", time.Since(began))
			for name, s := range services {
				streamtest.Wait(t, func() bool { return len(s.ids()) > 1 }, name+": an event after its server lost its peers")
				t.Logf("%s: handled after %v", name, time.Since(began))
			}
			streamtest.Wait(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
				defer cancel()
				return codatSource.Check(ctx, checks, 1<<20) == nil && checking.ConnectedUrl() != c.NodeURL(node)
			}, "an idle ingress is ready at another node")
			t.Logf("ready after %v", time.Since(began))
		})
	}
}
