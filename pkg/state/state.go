// Package state reads what Headgate's workers keep in KV buckets: the records, their keys and readers for downstream
// services. It writes nothing. A record depends on which events arrived and not on their order.
//
// A reader needs the permissions that NATS asks for to read one bucket: STREAM.INFO, DIRECT.GET, and for List and Watch
// CONSUMER.CREATE, all on the bucket's stream. A team's account of deploy/nats does not have the last: there, Get, AwaitWrite
// and ReadQuota work. Scan needs the permissions of stream.Read in place of the last.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// errWatchEnded means that the broker ended a watch, for example because its consumer was deleted.
var errWatchEnded = errors.New("the broker ended the watch: call it again")

// open returns the bucket of a state of a source. Its error is stream.ErrNotProvisioned when the bucket does not exist.
func open(ctx context.Context, js jetstream.JetStream, s stream.Source, name string) (jetstream.KeyValue, error) {
	kv, err := stream.Bucket(ctx, js, s.StateBucket(name))
	if err != nil {
		return nil, fmt.Errorf("state %q: %w", name, err)
	}
	return kv, nil
}

// decode reads a record of type R. Its error names the key and never the value.
func decode[R any](e jetstream.KeyValueEntry) (R, error) {
	var r R
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return r, fmt.Errorf("record %s of bucket %s: %w", e.Key(), e.Bucket(), err)
	}
	return r, nil
}

// watch calls each with every record whose key matches filter, then current once, and then each with every change. It
// ends with the first error of each or current, with ctx's, or with errWatchEnded.
func watch[R any](ctx context.Context, kv jetstream.KeyValue, filter string, each func(R) error, current func() error) error {
	w, err := kv.Watch(ctx, filter, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("watching bucket %s: %w", kv.Bucket(), err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("bucket %s: %w", kv.Bucket(), errWatchEnded)
			}
			if e == nil { // every record that existed before was delivered
				if err := current(); err != nil {
					return err
				}
				continue
			}
			r, err := decode[R](e)
			if err != nil {
				return err
			}
			if err := each(r); err != nil {
				return err
			}
		}
	}
}

// maxID is the length of the longest id, in bytes. A server ends the connection of a client that sends a subject of 4 KiB.
const maxID = 128

// list returns the records whose key matches filter and that keep selects, in no order.
func list[R any](ctx context.Context, kv jetstream.KeyValue, filter string, keep func(R) bool) (all []R, err error) {
	complete := errors.New("complete")
	err = watch(ctx, kv, filter, func(r R) error {
		if keep(r) {
			all = append(all, r)
		}
		return nil
	}, func() error { return complete })
	if !errors.Is(err, complete) {
		return nil, err
	}
	return all, nil
}

// scans is how often scan reads on behind what it has read.
const scans = 10

// scan returns the records of a bucket whose key matches keys and that keep selects, in no order. It needs no consumer but the
// permissions of stream.Read on the bucket's stream: it is for the roles of deploy/nats that may not make consumers.
func scan[R any](ctx context.Context, js jetstream.JetStream, bucket, keys string, keep func(R) bool) ([]R, error) {
	prefix := "$KV." + bucket + "."
	records := map[string]R{}
	options := stream.ReadOptions{Filters: []string{prefix + keys}}
	// A record that changes meanwhile moves behind what is being read, and is found there.
	for range scans {
		last, err := stream.Read(ctx, js, "KV_"+bucket, options, func(m *jetstream.RawStreamMsg) error {
			key := strings.TrimPrefix(m.Subject, prefix)
			delete(records, key)
			if m.Header.Get("KV-Operation") != "" {
				return nil // deleted
			}
			var r R
			if err := json.Unmarshal(m.Data, &r); err != nil {
				return fmt.Errorf("record %s of bucket %s: %w", key, bucket, err)
			}
			if keep(r) {
				records[key] = r
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if last == options.After {
			break
		}
		options.After = last
	}
	return slices.Collect(maps.Values(records)), nil
}

// checkID refuses an id that is empty or too long or that would match other keys than its own. The ids of Codat are UUIDs.
func checkID(what, id string) error {
	if id == "" {
		return fmt.Errorf("the %s is empty", what)
	}
	if len(id) > maxID {
		return fmt.Errorf("the %s has %d bytes, and at most %d are possible", what, len(id), maxID)
	}
	if strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) >= 0 {
		return fmt.Errorf("the %s has characters other than letters, digits, - and _", what)
	}
	return nil
}
