package main

import (
	"context"
	"fmt"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
)

func clusterCase(conns int) string {
	return fmt.Sprintf("cluster of three nodes and three copies, closed loop, %d connections", conns)
}

// clusterPart compares an ingress on a cluster with fsync with one on a cluster without. Both clusters run all the time;
// the one that has nothing to do costs little.
func clusterPart(ctx context.Context, b *bench) error {
	type side struct {
		*variant
		servers *lab.NATS
		conns   []*load.Conn
	}
	var sides []side
	for _, fsync := range []bool{false, true} {
		b.progress("cluster, %s", fsyncName(fsync))
		servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 3, fsync)
		if err != nil {
			return err
		}
		v, err := b.variant(ctx, "ingress", servers, headgate(nil, ""))
		if err != nil {
			return err
		}
		v.name = fsyncName(fsync)
		conns, err := load.Dial(v.address, nil, 256)
		if err != nil {
			return err
		}
		defer load.Close(conns)
		sides = append(sides, side{v, servers, conns})
	}
	batch := new(load.Batch)
	for _, s := range sides { // warm up
		if _, err := b.closed(ctx, "", s.variant, s.servers, batch, s.conns); err != nil {
			return err
		}
	}
	for round := range b.rounds {
		for _, n := range []int{64, 256} {
			b.progress("cluster: %d connections, round %d of %d", n, round+1, b.rounds)
			for _, s := range shuffled(sides) {
				if _, err := b.closed(ctx, clusterCase(n), s.variant, s.servers, batch, s.conns[:n]); err != nil {
					return err
				}
			}
		}
	}
	for _, s := range sides {
		if err := b.lab.Stop(s.process); err != nil {
			return err
		}
		if err := s.servers.Stop(); err != nil {
			return err
		}
	}
	return nil
}
