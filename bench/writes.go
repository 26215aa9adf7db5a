package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers/writes"
)

const (
	writesWorker = "worker-writes"
	writesCase   = "events of as many writes, 256 at once, from fetch to settled, one server, fsync off"
	recordCase   = "bytes for each record of a write, one server, fsync off"
)

// writesPart measures how many events a second worker-writes settles, beside a worker with the same claims whose handler does
// nothing, and what a record costs the server.
func writesPart(ctx context.Context, b *bench) error {
	in := writesCase
	if b.writes != 100_000 {
		in = fmt.Sprintf("%s, %d of them", writesCase, b.writes)
	}
	b.progress("writes: store %d events", b.writes)
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	if err := provision(ctx, servers, workerSource); err != nil {
		return err
	}
	if err := b.store(ctx, servers, b.writes, load.Type); err != nil {
		return err
	}
	if err := b.records(ctx, servers); err != nil {
		return err
	}
	start := map[string]func() (*worker, error){
		writesWorker:  func() (*worker, error) { return b.writesWorker(ctx, servers) },
		kvClaims.name: func() (*worker, error) { return b.worker(ctx, servers, kvClaims, load.Type, "") },
	}
	for round := range b.rounds {
		b.progress("writes: round %d of %d", round+1, b.rounds)
		for _, name := range shuffled([]string{writesWorker, kvClaims.name}) {
			w, err := start[name]()
			if err != nil {
				return err
			}
			if err := b.settleOnce(ctx, in, name, w, b.writes); err != nil {
				return err
			}
		}
		if err := servers.JS.DeleteKeyValue(ctx, workerSource.StateBucket(state.WritesName)); err != nil {
			return err
		}
	}
	return servers.Stop()
}

// writesWorker provisions and starts worker-writes, which has no records.
func (b *bench) writesWorker(ctx context.Context, servers *lab.NATS) (*worker, error) {
	if err := provision(ctx, servers, workerSource, writes.Worker(writes.Store{}).Spec()); err != nil {
		return nil, err
	}
	return b.startWorker(ctx, servers, writes.Name, writesWorker)
}

// records measures what the records cost that worker-writes makes of every event.
func (b *bench) records(ctx context.Context, servers *lab.NATS) error {
	b.progress("writes: a record for each of %d writes", b.writes)
	before, err := settledHeap(ctx, servers)
	if err != nil {
		return err
	}
	w, err := b.writesWorker(ctx, servers)
	if err != nil {
		return err
	}
	for n := 0; n < b.writes; {
		if n, err = w.settled(ctx); err != nil {
			return err
		}
	}
	if err := w.end(ctx); err != nil { // its claims are gone
		return err
	}
	now, err := settledHeap(ctx, servers)
	if err != nil {
		return err
	}
	bucket := workerSource.StateBucket(state.WritesName)
	disk, err1 := servers.Size("KV_" + bucket)
	st, err2 := servers.JS.Stream(ctx, "KV_"+bucket)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	held := st.CachedInfo().State
	if held.Msgs != uint64(b.writes) {
		return fmt.Errorf("%d events of as many writes made %d records", b.writes, held.Msgs)
	}
	n := float64(b.writes)
	b.add(recordCase, writesWorker, "counted", float64(held.Bytes)/n)
	b.add(recordCase, writesWorker, "disk", float64(disk)/n)
	b.add(recordCase, writesWorker, "heap", float64(now-before)/n)
	return servers.JS.DeleteKeyValue(ctx, bucket)
}

// settledHeap is the servers' heap when it has not shrunk for 12 s: until then it has blocks that were read or written last.
func settledHeap(ctx context.Context, servers *lab.NATS) (int64, error) {
	const pause, times = 2 * time.Second, 6
	least, err := servers.Heap(ctx)
	for same := 0; err == nil && same < times; same++ {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		var now int64
		if now, err = servers.Heap(ctx); now < least-least/100 {
			same = -1
		}
		least = min(least, now)
	}
	return least, err
}
