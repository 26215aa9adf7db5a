package claims

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
	"github.com/headgate/headgate/pkg/stream"
)

// KV keeps claims in a JetStream KV bucket, one key for each claim. The compare-and-set of the bucket decides which process
// holds a claim; a read never does, because a lagging replica may answer it. When a process dies between the effect of a
// handler and the write of done, the handler runs again. A claim that is held while its bucket is deleted and made again is
// saved into the new one, unless another process has taken it there.
type KV struct {
	bucket  jetstream.KeyValue
	subject string // of a key, without the key
	publish deadletter.Publisher
	now     func() time.Time
	clock   clock
	space   space
}

// NewKV returns a Store over bucket. It writes through p, twice for every event. now is the clock of the leases; nil means
// time.Now.
func NewKV(bucket jetstream.KeyValue, p deadletter.Publisher, now func() time.Time) *KV {
	c := &KV{bucket: bucket, subject: "$KV." + bucket.Bucket() + ".", publish: p, now: now}
	if now == nil {
		c.now, c.clock.real = time.Now, true
	}
	return c
}

// NotifyLoss implements LossNotifier. The bucket is measured at most once a second, when claims are taken or cannot be saved.
// It has lost claims when it was made at another time, or when its last sequence is lower than one that it has acknowledged
// to this KV: a server that comes back without its disk makes a bucket anew with the old time.
func (c *KV) NotifyLoss(lost func()) { c.space.lost = lost }

// String returns the key of the claim in its bucket: 32 hex digits, because a webhook-id may have characters that a KV key
// must not have.
func (k Key) String() string {
	sum := sha256.Sum256([]byte(k.WebhookID + "\x00" + k.Redrive))
	return hex.EncodeToString(sum[:16])
}

// kvTries bounds how often one Take or Save starts again because another process wrote in between.
const kvTries = 5

// kvTimeout bounds one read of the bucket: a request that is in flight when the connection drops would wait until its
// context ends, although a new connection exists long before.
const kvTimeout = 2 * time.Second

// Take implements Store. It returns an error that wraps stream.ErrFull when the bucket has no room left but that for the
// results of what runs.
func (c *KV) Take(ctx context.Context, key Key, t TakeRequest) (Claim, error) {
	if err := c.checkSpace(ctx); err != nil {
		return Claim{}, fmt.Errorf("claim %s: %w", key, err)
	}
	next, revision := c.clock.stamp(t.First(c.now()), c.now()), uint64(0)
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
			if claim, err = c.create(ctx, Claim{Key: key, Record: c.clock.stamp(t.First(c.now()), c.now())}); err == nil {
				return claim, nil
			}
			continue
		case err != nil:
			return Claim{}, fmt.Errorf("claim %s: %w", key, err)
		case record.Owner == t.Owner: // this Take wrote it, and only the answer was lost
			next, revision = c.clock.stamp(t.Again(record, c.now()), c.now()), rev
			continue
		}
		if next, err = t.Next(record, c.now()); err != nil {
			return Claim{}, err
		}
		next, revision = c.clock.stamp(next, c.now()), rev
	}
	return Claim{}, fmt.Errorf("claim %s: %w", key, last)
}

// Save implements Store.
func (c *KV) Save(ctx context.Context, claim Claim) (Claim, error) {
	claim.Record = c.clock.stamp(claim.Record, c.now())
	var last error
	for range kvTries {
		claim = c.space.rebase(claim)
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
		case errors.Is(err, ErrNoClaim): // a lagging replica answered, or the claim is lost
			claim.Revision, last = 0, err
			c.measure(ctx)
		case err != nil:
			last = err
		case rev < claim.Revision: // a lagging replica answered, or the bucket was made anew
			c.measure(ctx)
		case record.Owner != claim.Record.Owner:
			return claim, ErrLost
		case same(record, claim.Record):
			return Claim{Key: claim.Key, Record: record, Revision: rev}, nil
		default:
			claim.Revision = rev // an earlier write of this claim arrived, and only its answer was lost
		}
	}
	return claim, fmt.Errorf("claim %s: %w", claim.Key, last)
}

// Get implements Store.
func (c *KV) Get(ctx context.Context, key Key) (Record, error) {
	r, _, err := c.read(ctx, key)
	return r, err
}

// write is the compare-and-set; ErrLost means that the revision is not the newest.
func (c *KV) write(ctx context.Context, claim Claim) (Claim, error) {
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
		claim.Session = c.space.written(receipt.Sequence)
		return claim, nil
	// A replicated bucket has a code of its own for a revision that is not the newest.
	case errors.As(err, &refused) && (refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return claim, ErrLost
	case errors.Is(err, stream.ErrFull), refused != nil && refused.Code < 500:
		return claim, err
	}
	return claim, fmt.Errorf("%w: %w", ErrUnanswered, err)
}

// create writes a record where no record is, or a deleted one.
func (c *KV) create(ctx context.Context, claim Claim) (Claim, error) {
	value, err := json.Marshal(claim.Record)
	if err != nil {
		return claim, err
	}
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	defer cancel()
	claim.Revision, err = c.bucket.Create(ctx, claim.Key.String(), value)
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		err = fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	if err == nil {
		claim.Session = c.space.written(claim.Revision)
	}
	return claim, err
}

func (c *KV) read(ctx context.Context, key Key) (Record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	defer cancel()
	entry, err := c.bucket.Get(ctx, key.String())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Record{}, 0, ErrNoClaim
	}
	if err != nil {
		return Record{}, 0, fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	var r Record
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		return Record{}, 0, fmt.Errorf("record of claim %s: %w", key, err)
	}
	return c.clock.local(r, entry.Created()), entry.Revision(), nil
}

// same reports whether two records are equal after JSON, which keeps only the instant of a time.
func same(a, b Record) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
