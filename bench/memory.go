package main

import (
	"context"
	"fmt"
	"time"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
)

// memoryPart measures what one remembered id costs a server, in memory and on the disk: in the window of the stream, and
// as the claim of a worker.
func memoryPart(ctx context.Context, b *bench) error {
	for _, fsync := range b.fsyncs {
		nodes := 1
		if fsync {
			nodes = 3
		}
		if err := b.remember(ctx, nodes, fsync); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) remember(ctx context.Context, nodes int, fsync bool) error {
	where := fmt.Sprintf("%s, %s", counted(nodes), fsyncName(fsync))
	in := fmt.Sprintf("bytes for each of %d remembered ids, on each server, %s", b.ids, where)
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], nodes, fsync)
	if err != nil {
		return err
	}
	if err := provision(ctx, servers, workerSource); err != nil {
		return err
	}
	before, err := weigh(ctx, servers)
	if err != nil {
		return err
	}
	note := func(name, bucket string) error {
		now, err := weigh(ctx, servers)
		if err != nil {
			return err
		}
		disk, err := servers.Size(bucket)
		if err != nil {
			return err
		}
		n := float64(b.ids * nodes)
		b.add(in, name, "heap", float64(now.heap-before.heap)/n)
		b.add(in, name, "RSS", float64(now.rss-before.rss)/n)
		b.add(in, name, "disk", float64(disk)/n)
		before = now
		return nil
	}

	b.progress("memory, %s: store %d events", where, b.ids)
	if err := b.store(ctx, servers, b.ids, load.Type); err != nil {
		return err
	}
	if err := note("an event, with its id in the window", workerSource.Stream()); err != nil {
		return err
	}
	b.progress("memory, %s: a worker claims %d events", where, b.ids)
	w, err := b.worker(ctx, servers, kvClaims, load.Type, "")
	if err != nil {
		return err
	}
	for n := 0; n < b.ids; {
		if n, err = w.settled(ctx); err != nil {
			return err
		}
	}
	if err := b.lab.Stop(w.process); err != nil {
		return err
	}
	if err := note("a claim that is done", "KV_"+workerSource.ClaimsBucket(w.name)); err != nil {
		return err
	}
	b.progress("memory, %s: start again", where)
	if err := servers.Stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := servers.Start(ctx); err != nil {
		return err
	}
	err = servers.Processes[0].Await(ctx, func(ctx context.Context) error { // a cluster answers once it has a leader
		_, err := servers.JS.Stream(ctx, workerSource.Stream())
		return err
	})
	if err != nil {
		return err
	}
	b.add("start with as many events and claims", where, "s", time.Since(began).Seconds())
	return servers.Stop()
}

type weight struct{ heap, rss int64 }

// weigh is what the servers have in memory, after a garbage collection.
func weigh(ctx context.Context, servers *lab.NATS) (w weight, err error) {
	if w.heap, err = servers.Heap(ctx); err != nil {
		return w, err
	}
	for _, p := range servers.Processes {
		rss, _, err := p.Memory()
		if err != nil {
			return w, err
		}
		w.rss += rss
	}
	return w, nil
}
