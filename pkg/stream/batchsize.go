package stream

import (
	"cmp"
	"time"
)

const (
	minBatch   = 16 << 10
	firstBatch = 128 << 10
	maxBatch   = 4 << 20
	batchTime  = time.Second // a server closes a connection on which a batch takes longer than its write_deadline
)

// A BatchSize is the number of bytes to ask a server for at once: what the link carried in a second lately, between 16 KiB
// and 4 MiB. A larger batch on a slow link is cut off before it has arrived, by the reader or by the server. The zero value is
// ready to use.
type BatchSize struct{ bytes int }

// Bytes returns the size of the next batch.
func (b *BatchSize) Bytes() int { return cmp.Or(b.bytes, firstBatch) }

// Received records that a batch, or as much of it as arrived, had n bytes and took d. A batch that was smaller than what was
// asked for says nothing, unless it was slow.
func (b *BatchSize) Received(n int, d time.Duration) {
	now := b.Bytes()
	if n < now/2 && d < batchTime {
		return
	}
	carried := float64(n) / max(d, time.Microsecond).Seconds() * batchTime.Seconds()
	next := min(max(carried, float64(now)/8), 2*float64(now))
	b.bytes = int(min(max(next, minBatch), maxBatch))
}
