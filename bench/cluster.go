package main

import (
	"context"
	"fmt"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
)

func clusterCase(conns int, fsync bool) string {
	return fmt.Sprintf("cluster of three nodes and three copies, closed loop, %d connections, %s", conns, fsyncName(fsync))
}

func clusterHalfCase(fsync bool) string {
	return "cluster, open loop, all at half of the ingress's most, " + fsyncName(fsync)
}

// clusterPart compares the ingress with its rivals on a cluster with fsync and on one without. Both clusters run all the
// time; the one that has nothing to do costs little.
func clusterPart(ctx context.Context, b *bench) error {
	type side struct {
		*variant
		fsync   bool
		servers *lab.NATS
		conns   []*load.Conn
	}
	var sides []side
	var clusters []*lab.NATS
	for _, fsync := range []bool{false, true} {
		b.progress("cluster, %s", fsyncName(fsync))
		servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 3, fsync)
		if err != nil {
			return err
		}
		clusters = append(clusters, servers)
		for _, rival := range []struct {
			name  string
			start starter
		}{{"ingress", headgate(nil, "")}, {"plain", rival("plain")}, {"bound", rival("bound")}} {
			v, err := b.variant(ctx, rival.name, servers, rival.start)
			if err != nil {
				return err
			}
			conns, err := load.Dial(v.address, nil, 256)
			if err != nil {
				return err
			}
			defer load.Close(conns)
			sides = append(sides, side{v, fsync, servers, conns})
		}
	}
	batch := new(load.Batch)
	for _, s := range sides { // warm up
		if _, err := b.closed(ctx, "", s.variant, s.servers, batch, s.conns); err != nil {
			return err
		}
	}
	for round := range b.rounds {
		for _, n := range []int{64, 256} {
			b.progress("cluster: the most over %d connections, round %d of %d", n, round+1, b.rounds)
			for _, s := range shuffled(sides) {
				if _, err := b.closed(ctx, clusterCase(n, s.fsync), s.variant, s.servers, batch, s.conns[:n]); err != nil {
					return err
				}
			}
		}
	}
	for round := range b.rounds {
		b.progress("cluster: latencies, round %d of %d", round+1, b.rounds)
		for _, s := range shuffled(sides) {
			if s.name == "plain" { // it would be near its end
				continue
			}
			rate := b.median(clusterCase(64, s.fsync), "ingress", perSecond) / 2
			if err := b.open(ctx, clusterHalfCase(s.fsync), s.variant, s.servers, batch, s.conns, rate); err != nil {
				return err
			}
		}
	}
	for _, s := range sides {
		if err := b.lab.Stop(s.process); err != nil {
			return err
		}
	}
	for _, servers := range clusters {
		if err := servers.Stop(); err != nil {
			return err
		}
	}
	return nil
}
