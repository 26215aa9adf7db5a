package claims

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

const (
	// reservedPart is the part of the bucket (one sixteenth) that Take leaves free for Save. A replicated stream refuses an
	// update that does not fit beside the record that it replaces, so a full bucket could not be marked done.
	reservedPart = 16
	// spaceInterval is how long a measurement of the bucket is used.
	spaceInterval = time.Second
	// takeSize is more bytes than one new claim adds to its bucket.
	takeSize = 512
)

// space remembers whether the bucket has room for new claims, and which bucket of its name it is.
type space struct {
	mu      sync.Mutex
	checked time.Time // when the bucket was measured last
	allowed int64     // calls of Take before the bucket is measured again
	err     error     // nil when there is room

	lost func() // is called when the bucket has lost claims; may be nil

	history    sync.Mutex
	made       time.Time // when the bucket was made
	highest    uint64    // sequence that the bucket has acknowledged
	suspected  bool      // the last measurement found a lower sequence
	generation int       // counts the losses
}

// written records that the bucket has acknowledged a sequence, and returns the generation of the bucket.
func (s *space) written(sequence uint64) (generation int) {
	s.history.Lock()
	defer s.history.Unlock()
	s.highest = max(s.highest, sequence)
	return s.generation
}

// rebase returns a claim that was written into an earlier bucket as one that has no revision yet.
func (s *space) rebase(claim Claim) Claim {
	s.history.Lock()
	defer s.history.Unlock()
	if generation, ok := claim.Session.(int); ok && generation != s.generation {
		claim.Revision, claim.Session = 0, s.generation
	}
	return claim
}

// acknowledged returns the highest sequence that the bucket has acknowledged.
func (s *space) acknowledged() uint64 {
	s.history.Lock()
	defer s.history.Unlock()
	return s.highest
}

// compare reports whether a measurement shows that claims are lost. acknowledged is the highest sequence from before it. One
// measurement with a lower sequence is not enough, because a server that is no longer the leader may have answered it.
func (s *space) compare(made time.Time, last, acknowledged uint64) (lost bool) {
	s.history.Lock()
	defer s.history.Unlock()
	lower := last < acknowledged
	lost = !s.made.IsZero() && !s.made.Equal(made) || lower && s.suspected
	s.made, s.suspected = made, lower
	if lost {
		s.highest, s.suspected = last, false
		s.generation++
	}
	return lost
}

// checkSpace returns an error that wraps stream.ErrFull while only the reserved part of the bucket is left. A bucket that
// cannot be measured counts as it was measured last, because the write of the claim says the rest.
func (c *KV) checkSpace(ctx context.Context) error {
	s := &c.space
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.allowed--; s.allowed >= 0 && time.Since(s.checked) < spaceInterval {
		return s.err
	}
	return c.measureLocked(ctx)
}

// measure measures the bucket unless it was measured within the last second.
func (c *KV) measure(ctx context.Context) {
	s := &c.space
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.checked) >= spaceInterval {
		_ = c.measureLocked(ctx) // whether it has room concerns only Take
	}
}

// measureLocked measures the bucket. The caller holds space.mu.
func (c *KV) measureLocked(ctx context.Context) error {
	s := &c.space
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	defer cancel()
	acknowledged := s.acknowledged()
	status, err := c.bucket.Status(ctx)
	s.checked = time.Now()
	if err != nil {
		s.allowed = 1
		return s.err
	}
	c.clock.measure(s.checked, status)
	if b, ok := status.(*jetstream.KeyValueBucketStatus); ok {
		info := b.StreamInfo()
		if s.compare(info.Created, info.State.LastSeq, acknowledged) && s.lost != nil {
			s.lost()
		}
	}
	s.allowed, s.err = room(c.bucket.Bucket(), status)
	return s.err
}

// room returns the number of claims for which a bucket has room until it must be measured again, or an error when it has
// none.
func room(bucket string, status jetstream.KeyValueStatus) (int64, error) {
	limit, used := int64(0), int64(status.Bytes())
	if s, ok := status.(*jetstream.KeyValueBucketStatus); ok {
		limit = s.StreamInfo().Config.MaxBytes
	}
	if limit <= 0 {
		return 1 << 30, nil
	}
	reserved := limit / reservedPart
	if used > limit-reserved {
		return 1 << 30, fmt.Errorf("bucket %s holds %d of its %d bytes, and the rest is kept for claims that run: raise it with `headgate provision --claims-max-bytes`: %w",
			bucket, used, limit, stream.ErrFull)
	}
	return reserved / 4 / takeSize, nil
}
