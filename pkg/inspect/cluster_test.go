//go:build faults

package inspect

import (
	"context"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestFaults_CollectorSeesReplicasOfCluster(t *testing.T) {
	t.Parallel()
	cluster := streamtest.NewCluster(t, bookkeeper)
	c := NewCollector(cluster.JS, source)
	// The replicas of a new stream are current once they have answered the leader.
	var s Snapshot
	var st Stream
	collect := func() {
		s, _ = c.Collect(context.Background())
		st = s.stream(source.Stream())
	}
	streamtest.Wait(t, func() bool {
		collect()
		return s.Complete && st.ReplicasCurrent == streamtest.Nodes
	}, "all copies are current")
	if !st.HasLeader || st.Replicas != streamtest.Nodes || len(st.ReplicaLag) != 2 {
		t.Errorf("the stream is %+v; want a leader, 3 replicas and the lag of 2", st)
	}
	if !slices.ContainsFunc(s.Consumers, func(c Consumer) bool {
		return c.Stream == source.Stream() && c.Name == bookkeeper.Name && c.Answered && c.HasLeader
	}) {
		t.Errorf("the consumers are %+v; want one of %s with a leader", s.Consumers, bookkeeper.Name)
	}

	leader := cluster.LeaderOf(source.Stream())
	cluster.Kill((leader + 1) % streamtest.Nodes)
	streamtest.Wait(t, func() bool {
		collect()
		return st.HasLeader && st.ReplicasCurrent == 2
	}, "a copy is missing")
	cluster.Kill((leader + 2) % streamtest.Nodes)
	streamtest.Wait(t, func() bool {
		collect()
		return st.Name != "" && !st.HasLeader && !s.Complete
	}, "the stream has no leader")
}

// The server sees no leader of any stream, and all have one at the other two.
func TestFaults_CollectorLooksFromAnotherServer(t *testing.T) {
	t.Parallel()
	cluster := streamtest.NewCluster(t, bookkeeper)
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: cluster.URL}, "watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	node := (cluster.LeaderOf(source.Stream()) + 1) % streamtest.Nodes
	cluster.MoveTo(nc, node)
	cluster.LosePeers(node)
	c := NewCollector(js, source)
	var s Snapshot
	streamtest.Wait(t, func() bool {
		s, err = c.Collect(context.Background())
		return s.Complete && !s.leaderless()
	}, "a snapshot with all leaders")
	if nc.ConnectedUrl() == cluster.NodeURL(node) {
		t.Error("the snapshot is of the server that has lost its peers")
	}
}
