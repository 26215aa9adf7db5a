package workers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/deadletter"
)

// KVClaims keeps claims in a JetStream KV bucket, one key for each piece of work. The bucket's own
// compare-and-set decides who holds a claim; a read, which a lagging replica may answer, never does.
// It closes every window but one: a process that dies between a handler's effect and the mark `done` runs
// the handler again.
type KVClaims struct {
	bucket  jetstream.KeyValue
	subject string // of a key, without the key
	publish deadletter.Publisher
	now     func() time.Time
}

// NewKVClaims keeps claims in bucket, which it writes through p: two writes for every event are worth a publisher
// that costs little. now is the clock of the leases; nil is time.Now.
func NewKVClaims(bucket jetstream.KeyValue, p deadletter.Publisher, now func() time.Time) *KVClaims {
	if now == nil {
		now = time.Now
	}
	return &KVClaims{bucket, "$KV." + bucket.Bucket() + ".", p, now}
}

// String is the key of the claim in its bucket: 32 hex digits, since a webhook-id may hold what a KV key may not.
func (k Key) String() string {
	sum := sha256.Sum256([]byte(k.WebhookID + "\x00" + k.Redrive))
	return hex.EncodeToString(sum[:16])
}

// kvTries bounds how often one Take or Save begins again because somebody else wrote in between.
const kvTries = 5

// kvPatience bounds one read of the bucket: a request in flight when the connection drops would wait for
// the whole of its context although a new connection is there long since.
const kvPatience = 2 * time.Second

// Take implements Claims.
func (c *KVClaims) Take(ctx context.Context, key Key, t Taking) (Claim, error) {
	next, revision := t.Fresh(c.now()), uint64(0)
	var last error
	for range kvTries {
		claim, err := c.write(ctx, Claim{Key: key, Record: next, Revision: revision})
		if err == nil {
			return claim, nil
		}
		last = err
		if !errors.Is(err, ErrLost) && ctx.Err() != nil {
			break
		}
		record, rev, err := c.read(ctx, key)
		switch {
		case errors.Is(err, ErrNoClaim):
			// A lagging replica answered, the first write never arrived, or an operator deleted the key.
			if claim, err = c.create(ctx, Claim{Key: key, Record: t.Fresh(c.now())}); err == nil {
				return claim, nil
			}
			continue
		case err != nil:
			return Claim{}, fmt.Errorf("claim %s: %w", key, err)
		case record.Owner == t.Owner:
			return Claim{Key: key, Record: record, Revision: rev}, nil // it was ours, and only the answer was lost
		}
		if next, err = t.Over(record, c.now()); err != nil {
			return Claim{}, err
		}
		revision = rev
	}
	return Claim{}, fmt.Errorf("claim %s: %w", key, last)
}

// Save implements Claims.
func (c *KVClaims) Save(ctx context.Context, claim Claim) (Claim, error) {
	var last error
	for range kvTries {
		saved, err := c.write(ctx, claim)
		if err == nil {
			return saved, nil
		}
		last = err
		if ctx.Err() != nil {
			break
		}
		// The write may have arrived although its answer did not.
		record, rev, err := c.read(ctx, claim.Key)
		switch {
		case err != nil:
			last = err
		case rev < claim.Revision: // a lagging replica answered
		case record.Owner != claim.Record.Owner:
			return claim, ErrLost
		case same(record, claim.Record):
			return Claim{Key: claim.Key, Record: record, Revision: rev}, nil
		default:
			claim.Revision = rev // an earlier write of ours arrived, and only its answer was lost
		}
	}
	return claim, fmt.Errorf("claim %s: %w", claim.Key, last)
}

// Look implements Claims.
func (c *KVClaims) Look(ctx context.Context, key Key) (Record, error) {
	r, _, err := c.read(ctx, key)
	return r, err
}

// write is the compare-and-set; ErrLost means that the revision is not the newest.
func (c *KVClaims) write(ctx context.Context, claim Claim) (Claim, error) {
	value, err := json.Marshal(claim.Record)
	if err != nil {
		return claim, err
	}
	receipt, err := c.publish.Publish(ctx, &nats.Msg{
		Subject: c.subject + claim.Key.String(), Data: value,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(claim.Revision, 10)}},
	})
	var refused *jetstream.APIError
	switch {
	case err == nil:
		claim.Revision = receipt.Sequence
		return claim, nil
	// A replicated bucket has a code of its own for a revision that is not the newest.
	case errors.As(err, &refused) && (refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return claim, ErrLost
	}
	return claim, err
}

// create writes a record where there is none or a deleted one.
func (c *KVClaims) create(ctx context.Context, claim Claim) (Claim, error) {
	value, err := json.Marshal(claim.Record)
	if err != nil {
		return claim, err
	}
	ctx, cancel := context.WithTimeout(ctx, kvPatience)
	defer cancel()
	claim.Revision, err = c.bucket.Create(ctx, claim.Key.String(), value)
	return claim, err
}

func (c *KVClaims) read(ctx context.Context, key Key) (Record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, kvPatience)
	defer cancel()
	entry, err := c.bucket.Get(ctx, key.String())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Record{}, 0, ErrNoClaim
	}
	if err != nil {
		return Record{}, 0, err
	}
	var r Record
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		return Record{}, 0, fmt.Errorf("record of claim %s: %w", key, err)
	}
	return r, entry.Revision(), nil
}

// same reports whether two records are the same write; times that went through JSON keep their instant only.
func same(a, b Record) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
