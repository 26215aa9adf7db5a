package stream

import (
	"cmp"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A desiredStream says how a stream should be. apply changes a configuration, existing or empty, to that: it sets what the
// layout says, keeps what the layout leaves open, and does not touch what operators decide, such as placement.
type desiredStream struct {
	name  string
	apply func(*jetstream.StreamConfig)
}

func (w desiredStream) object() string {
	if bucket, ok := strings.CutPrefix(w.name, bucketPrefix); ok {
		return "bucket " + bucket
	}
	return "stream " + w.name
}

// bucketPrefix begins the name of the stream under a KV bucket.
const bucketPrefix = "KV_"

func (p Layout) eventStream() desiredStream {
	s := p.Source
	return desiredStream{s.Stream(), func(c *jetstream.StreamConfig) {
		p.common(c, p.MaxBytes, DefaultMaxBytes)
		c.Subjects = []string{s.EventFilter(">"), s.QuarantineSubject(), string(s) + ".redrive.>"}
		c.Retention = jetstream.LimitsPolicy // with another policy, message ids do not survive a restart
		c.MaxAge = cmp.Or(p.MaxAge, c.MaxAge, DefaultMaxAge)
		c.Duplicates = c.MaxAge // an id is known as long as its event is stored
	}}
}

func (p Layout) deadStream() desiredStream {
	return desiredStream{p.Source.DeadStream(), func(c *jetstream.StreamConfig) {
		p.common(c, p.DeadMaxBytes, DefaultDeadMaxBytes)
		c.Subjects = []string{string(p.Source) + ".dead.>"}
		c.Retention = jetstream.LimitsPolicy
		c.MaxAge = deadMaxAge
		// A parked event does not expire: a worker that was away for weeks may bury again what it buried before.
		c.Duplicates = c.MaxAge
	}}
}

func (p Layout) parkedStream() desiredStream {
	return desiredStream{p.Source.ParkedStream(), func(c *jetstream.StreamConfig) {
		p.common(c, p.ParkedMaxBytes, DefaultParkedMaxBytes)
		c.Subjects = []string{string(p.Source) + ".parked.>"}
		c.Retention = jetstream.WorkQueuePolicy
		c.MaxAge = 0 // a waiting event is never dropped
		c.Duplicates = parkedWindow
	}}
}

func (p Layout) operatorStream() desiredStream {
	return desiredStream{p.Source.OperatorStream(), func(c *jetstream.StreamConfig) {
		p.common(c, 0, operatorMaxBytes)
		c.Subjects = []string{p.Source.OperatorSubject()}
		c.Retention = jetstream.LimitsPolicy
		c.Discard = jetstream.DiscardOld // a full record must not stop an operator
		c.MaxAge = operatorMaxAge
	}}
}

// common sets what all streams and buckets have in common.
func (p Layout) common(c *jetstream.StreamConfig, maxBytes, defaultMaxBytes int64) {
	c.Storage = jetstream.FileStorage
	c.Discard = jetstream.DiscardNew // a full stream refuses new messages; the other policy would drop unread ones
	c.DiscardNewPerSubject = false
	c.Replicas = cmp.Or(p.Replicas, max(c.Replicas, p.eventReplicas), 1)
	c.MaxBytes = cmp.Or(maxBytes, max(0, c.MaxBytes), defaultMaxBytes)
	c.MaxMsgs = -1
	c.AllowDirect = true
	c.NoAck = false
	// With s2, a replica that restarts after a crash can compress a block and go on writing it uncompressed
	// (nats-server 2.15.2). At its next start it cannot read the stream.
	c.Compression = jetstream.NoCompression
}

// bucket is a KV bucket, configured as nats.go does.
func (p Layout) bucket(name string, ttl time.Duration, maxBytes, defaultMaxBytes int64) desiredStream {
	return desiredStream{bucketPrefix + name, func(c *jetstream.StreamConfig) {
		p.common(c, maxBytes, defaultMaxBytes)
		c.Subjects = []string{"$KV." + name + ".>"}
		c.Retention = jetstream.LimitsPolicy
		c.MaxMsgsPerSubject = 1
		c.MaxAge = ttl
		c.Duplicates = 2 * time.Minute
		if ttl > 0 {
			c.Duplicates = min(c.Duplicates, ttl)
		}
		c.AllowRollup = true
		c.DenyDelete = true
		c.MaxMsgSize = cmp.Or(c.MaxMsgSize, -1)
		c.MaxConsumers = cmp.Or(c.MaxConsumers, -1)
	}}
}

// state is the bucket of a state. keep is how long a new one keeps its records.
func (p Layout) state(name string, keep time.Duration) desiredStream {
	b := p.bucket(p.Source.StateBucket(name), 0, p.StateMaxBytes, DefaultStateMaxBytes)
	common := b.apply
	b.apply = func(c *jetstream.StreamConfig) {
		if len(c.Subjects) > 0 { // it exists
			keep = c.MaxAge
		}
		if age, ok := p.StateMaxAge[name]; ok {
			keep = age
		}
		common(c)
		c.MaxAge = keep
	}
	return b
}

// A desiredConsumer says in the same way how a consumer should be.
type desiredConsumer struct {
	stream string
	name   string
	claims string // the worker's bucket of claims; "" for a consumer that always begins with all
	begin  Begin
	apply  func(*jetstream.ConsumerConfig)
}

func (w desiredConsumer) object() string { return "consumer " + w.name + " on " + w.stream }

// eventConsumer is the worker's consumer on the events.
func (w WorkerSpec) eventConsumer(s Source) desiredConsumer {
	return desiredConsumer{s.Stream(), w.Name, s.ClaimsBucket(w.Name), w.Begin, func(c *jetstream.ConsumerConfig) {
		w.common(c)
		c.FilterSubject, c.FilterSubjects = "", w.Filters(s)
		c.MaxAckPending = cmp.Or(w.MaxAckPending, DefaultMaxAckPending)
	}}
}

// parkedConsumer is the worker's consumer on its parked copies. It begins with all, so that none is skipped.
func (w WorkerSpec) parkedConsumer(s Source) desiredConsumer {
	return desiredConsumer{s.ParkedStream(), w.Name, "", BeginAll(), func(c *jetstream.ConsumerConfig) {
		w.common(c)
		c.FilterSubject, c.FilterSubjects = "", []string{s.ParkedFilter(w.Name)}
		c.MaxAckPending = parkedPending
	}}
}

func (w WorkerSpec) common(c *jetstream.ConsumerConfig) {
	c.Name, c.Durable = w.Name, w.Name
	c.AckPolicy = jetstream.AckExplicitPolicy
	c.AckWait = cmp.Or(w.AckWait, DefaultAckWait)
	c.MaxDeliver = -1 // the claim counts attempts; with a limit, the server would lose the event
	c.BackOff = nil   // it would replace AckWait and add to every delay
	c.InactiveThreshold = 0
	c.HeadersOnly = false
	c.MaxWaiting = cmp.Or(c.MaxWaiting, maxWaiting)
	own(c)
}

// own marks a consumer as one that Provision made.
func own(c *jetstream.ConsumerConfig) {
	if c.Metadata[ownerKey] != owner {
		meta := map[string]string{ownerKey: owner}
		for k, v := range c.Metadata {
			meta[k] = v
		}
		meta[ownerKey] = owner
		c.Metadata = meta
	}
}

// deliverFrom sets where a new consumer begins. It cannot be changed later.
func (b Begin) deliverFrom(c *jetstream.ConsumerConfig) {
	switch {
	case b.all:
		c.DeliverPolicy = jetstream.DeliverAllPolicy
	case !b.from.IsZero():
		c.DeliverPolicy = jetstream.DeliverByStartTimePolicy
		c.OptStartTime = &b.from
	default:
		c.DeliverPolicy = jetstream.DeliverNewPolicy
	}
}
