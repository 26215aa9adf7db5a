package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// recordTimeout bounds one request: one whose answer is lost with its connection is sent again on the next one.
	recordTimeout = 2 * time.Second
	// minRecordPause and maxRecordPause bound the pause before a record is written again.
	minRecordPause, maxRecordPause = 10 * time.Millisecond, time.Second
)

// UpdateRecord reads the record of a key, JSON of type R, and writes what change returns for it; a key without a record
// has the zero R. It writes nothing when the record stays the same. It tries again until ctx ends while another process
// writes the record first, and while a request has no answer: change can be called several times, and must return the same
// for the same record. Every error is made by Unavailable, because a bucket that is full, missing or does not answer concerns
// every event alike; so is that of a record that is not JSON of type R. An error names the key and never the value.
func UpdateRecord[R any](ctx context.Context, bucket jetstream.KeyValue, key string, change func(R) R) error {
	for pause := minRecordPause; ; pause = min(2*pause, maxRecordPause) {
		err := writeRecord(ctx, bucket, key, change)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch): // another process was first
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout): // no answer
		default:
			return unavailableRecord(bucket, key, err)
		}
		select {
		case <-ctx.Done():
			return unavailableRecord(bucket, key, err)
		case <-time.After(rand.N(pause)):
		}
	}
}

// writeRecord reads a record and writes it changed.
func writeRecord[R any](ctx context.Context, bucket jetstream.KeyValue, key string, change func(R) R) error {
	record, revision, err := ReadRecord[R](ctx, bucket, key)
	if err != nil {
		return err
	}
	before, err := json.Marshal(record)
	if err != nil {
		return err
	}
	value, err := json.Marshal(change(record))
	if err != nil {
		return err
	}
	if bytes.Equal(value, before) { // also when the answer to an earlier write was lost
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if revision == 0 {
		_, err = bucket.Create(ctx, key, value)
	} else {
		_, err = bucket.Update(ctx, key, value, revision)
	}
	return err
}

// ReadRecord returns the record of a key, JSON of type R, and its revision; without a record the zero R and revision 0. It
// waits two seconds for the answer.
func ReadRecord[R any](ctx context.Context, bucket jetstream.KeyValue, key string) (record R, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	e, err := bucket.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return record, 0, nil
	}
	if err != nil {
		return record, 0, err
	}
	return record, e.Revision(), json.Unmarshal(e.Value(), &record)
}

func unavailableRecord(bucket jetstream.KeyValue, key string, err error) error {
	return Unavailable(fmt.Errorf("record %s of bucket %s: %w", key, bucket.Bucket(), err))
}
