package claims

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// clock translates the times in a record from the clock of the host that wrote it to that of this host, by the time of the
// server, which both were compared with. Clocks that differ by up to ClockSkew count as equal.
type clock struct {
	real   bool         // the Store uses time.Now
	behind atomic.Int64 // by how many nanoseconds this host's clock is behind the server's
}

// measure compares the clock with the time at which the server described the bucket.
func (c *clock) measure(now time.Time, status jetstream.KeyValueStatus) {
	if s, ok := status.(*jetstream.KeyValueBucketStatus); ok && !s.StreamInfo().TimeStamp.IsZero() {
		c.behind.Store(int64(s.StreamInfo().TimeStamp.Sub(now)))
	}
}

// stamp returns a record with the time of its writer, unless it is final.
func (c *clock) stamp(r Record, now time.Time) Record {
	if r.Written = (time.Time{}); c.real && r.State != Done && r.State != Dead {
		r.Written = now
	}
	return r
}

// local returns a record that the server stored at a time with its lease and its next attempt in the time of this host.
func (c *clock) local(r Record, stored time.Time) Record {
	if !c.real || r.Written.IsZero() {
		return r
	}
	shift := stored.Add(-time.Duration(c.behind.Load())).Sub(r.Written)
	if shift.Abs() <= ClockSkew {
		return r
	}
	for _, t := range []*time.Time{&r.LeaseUntil, &r.Next} {
		if !t.IsZero() {
			*t = t.Add(shift)
		}
	}
	return r
}
