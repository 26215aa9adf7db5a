package doctor

import (
	"context"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// newCluster is an installation on three servers.
func newCluster(t *testing.T) (*installation, *streamtest.Cluster) {
	t.Helper()
	c := streamtest.NewCluster(t, spec)
	in := &installation{Server: &streamtest.Server{URL: c.NodeURL(0), NC: c.NC, JS: c.JS}, TB: t}
	in.describe()
	in.Connect = func(ctx context.Context) (jetstream.JetStream, func(), error) { return c.JS, func() {}, nil }
	in.Layout.Replicas = 3
	return in, c
}

// changed are the checks that are not ok, with what a test of a cluster does not set up left out.
func (in *installation) changed(codes ...string) map[string]Status {
	in.Helper()
	all := statuses(in.report(nil))
	for code, s := range all {
		if s == OK || !slices.Contains(codes, code) {
			delete(all, code)
		}
	}
	return all
}

// A server that is away makes the replicas of its copies late, and nothing else.
func TestExamine_ServerOfThreeIsLost(t *testing.T) {
	t.Parallel()
	in, c := newCluster(t)
	watched := withPrefix("HG-NATS-", "HG-STR-", "HG-CON-")
	streamtest.Wait(t, func() bool { return len(in.changed(watched...)) == 0 }, "all is well")

	in.editStream("CODAT_DEAD", func(c *jetstream.StreamConfig) { c.Replicas = 1 })
	streamtest.Wait(t, func() bool {
		got := in.changed(watched...)
		return len(got) == 2 && got["HG-STR-005"] == Warn && got["HG-STR-002"] == Warn
	}, "a stream with fewer copies is noticed, and that provision would give it more")
	streamtest.Provision(t, c.JS, stream.Layout{Source: source, Replicas: 3, Workers: []stream.WorkerSpec{spec}})
	streamtest.Wait(t, func() bool { return len(in.changed(watched...)) == 0 }, "all is well again")

	c.Kill(2)
	streamtest.Wait(t, func() bool {
		got := in.changed(watched...)
		return len(got) == 1 && got["HG-STR-004"] == Warn
	}, "replicas are missing, and nothing else is wrong")
	c.Restart(2)
	streamtest.Wait(t, func() bool { return len(in.changed(watched...)) == 0 }, "the server has caught up")
}

// Without a quorum no stream has a leader. What cannot be read is skipped.
func TestExamine_NoStreamHasALeader(t *testing.T) {
	t.Parallel()
	in, c := newCluster(t)
	c.Kill(1)
	c.Kill(2)
	streamtest.Wait(t, func() bool {
		got := statuses(in.report(nil))
		return got["HG-STR-003"] == Fail || got["HG-NATS-004"] == Fail && got["HG-STR-003"] == Skipped
	}, "no stream has a leader, or JetStream does not answer")
}
