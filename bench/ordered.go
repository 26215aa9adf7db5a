package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/pcgroups"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
)

const (
	orderedCase = "handler that does nothing, from fetch to settled, one server, fsync off"
	copyCase    = "bytes for each event, one server, fsync off"

	partitions = 4
	companies  = 50
)

// ordered is an ordered worker, which handles one event at a time.
var ordered = remembering{flag: "kv", name: "ordered worker", ordered: true}

// orderedPart measures an ordered worker beside one that is not, and partitioned consumer groups (orbit.go/pcgroups), which
// keep the order of each company and remember no ids.
func orderedPart(ctx context.Context, b *bench) error {
	b.progress("ordered: store %d events", b.events)
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	if err := provision(ctx, servers, workerSource); err != nil {
		return err
	}
	if err := b.store(ctx, servers, b.events, load.Type); err != nil {
		return err
	}
	for round := range b.rounds {
		b.progress("ordered: round %d of %d", round+1, b.rounds)
		for _, r := range shuffled([]remembering{kvClaims, ordered}) {
			w, err := b.worker(ctx, servers, r, load.Type, "")
			if err != nil {
				return err
			}
			if err := b.settleOnce(ctx, orderedCase, r.name, w, b.events); err != nil {
				return err
			}
		}
		if err := b.partitioned(ctx, servers); err != nil {
			return err
		}
	}
	return servers.Stop()
}

// partitioned measures members of an elastic consumer group that each handle one event at a time.
func (b *bench) partitioned(ctx context.Context, servers *lab.NATS) error {
	const name, group = "KEYED", "members"
	js := servers.JS
	st, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{"keyed.*"}})
	if err != nil {
		return err
	}
	body := make([]byte, b.size)
	for i := range b.events {
		if _, err := js.PublishAsync("keyed."+strconv.Itoa(i%companies), body, jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	before, err := st.Info(ctx)
	if err != nil {
		return err
	}
	// The group copies each event into a stream of its own, whose subjects begin with the partition.
	_, err = pcgroups.CreateElastic(ctx, js, name, group, partitions, []pcgroups.PartitioningFilter{{Filter: "keyed.*", PartitioningWildcards: []int{1}}}, 0, 0)
	if err != nil {
		return err
	}
	copied, err := b.copied(ctx, js, name+"-"+group)
	if err != nil {
		return err
	}
	n := float64(b.events)
	b.add(copyCase, "the stream of the events", "counted", float64(before.State.Bytes)/n)
	b.add(copyCase, "the copy of a consumer group", "counted", float64(copied)/n)

	var done atomic.Int64
	var once sync.Once
	all := make(chan struct{})
	began := time.Now()
	handle := func(m jetstream.Msg) {
		if m.Ack() == nil && done.Add(1) == int64(b.events) {
			once.Do(func() { close(all) })
		}
	}
	var members []string
	for i := range partitions {
		members = append(members, "m"+strconv.Itoa(i))
	}
	if _, err := pcgroups.AddMembers(ctx, js, name, group, members); err != nil {
		return err
	}
	for _, member := range members {
		c, err := pcgroups.ElasticConsume(ctx, js, name, group, member, handle, jetstream.ConsumerConfig{
			AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1, AckWait: 5 * time.Second,
		})
		if err != nil {
			return err
		}
		defer c.Stop()
	}
	select {
	case <-all:
	case <-ctx.Done():
		return fmt.Errorf("%d of %d events handled: %w", done.Load(), b.events, context.Cause(ctx))
	}
	b.add(orderedCase, strconv.Itoa(partitions)+" members of a consumer group, no claims", eventsPerSecond, n/time.Since(began).Seconds())
	return errors.Join(pcgroups.DeleteElastic(ctx, js, name, group), js.DeleteStream(ctx, name))
}

// copied waits until a stream has all events, and returns its bytes.
func (b *bench) copied(ctx context.Context, js jetstream.JetStream, name string) (uint64, error) {
	for {
		st, err := js.Stream(ctx, name)
		if err != nil {
			return 0, err
		}
		if held := st.CachedInfo().State; held.Msgs == uint64(b.events) {
			return held.Bytes, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
