package stream

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A wanted stream is a shape that is laid over what is there, or over nothing: it sets what the plan says, keeps what
// the plan leaves open and does not touch what is an operator's own business, as placement.
type wantedStream struct {
	name  string
	shape func(*jetstream.StreamConfig)
}

func (w wantedStream) object() string {
	if bucket, ok := strings.CutPrefix(w.name, bucketPrefix); ok {
		return "bucket " + bucket
	}
	return "stream " + w.name
}

// bucketPrefix begins the name of the stream under a KV bucket.
const bucketPrefix = "KV_"

func (p Plan) eventStream() wantedStream {
	s := p.Source
	return wantedStream{s.Stream(), func(c *jetstream.StreamConfig) {
		p.common(c, p.MaxBytes, DefaultMaxBytes)
		c.Subjects = []string{s.EventFilter(">"), s.QuarantineSubject(), string(s) + ".redrive.>"}
		c.Retention = jetstream.LimitsPolicy // the only one in which the ids survive a restart
		c.MaxAge = cmp.Or(p.MaxAge, c.MaxAge, DefaultMaxAge)
		c.Duplicates = c.MaxAge // an id is known as long as its event is stored
	}}
}

func (p Plan) deadStream() wantedStream {
	return wantedStream{p.Source.DeadStream(), func(c *jetstream.StreamConfig) {
		p.common(c, p.DeadMaxBytes, DefaultDeadMaxBytes)
		c.Subjects = []string{string(p.Source) + ".dead.>"}
		c.Retention = jetstream.LimitsPolicy
		c.MaxAge = deadMaxAge
		c.Duplicates = min(cmp.Or(p.MaxAge, c.Duplicates, DefaultMaxAge), deadMaxAge)
	}}
}

func (p Plan) parkedStream() wantedStream {
	return wantedStream{p.Source.ParkedStream(), func(c *jetstream.StreamConfig) {
		p.common(c, p.ParkedMaxBytes, DefaultParkedMaxBytes)
		c.Subjects = []string{string(p.Source) + ".parked.>"}
		c.Retention = jetstream.WorkQueuePolicy
		c.MaxAge = 0 // what waits is never dropped
		c.Duplicates = parkedWindow
	}}
}

func (p Plan) operatorStream() wantedStream {
	return wantedStream{p.Source.OperatorStream(), func(c *jetstream.StreamConfig) {
		p.common(c, 0, operatorMaxBytes)
		c.Subjects = []string{p.Source.OperatorSubject()}
		c.Retention = jetstream.LimitsPolicy
		c.Discard = jetstream.DiscardOld // a full log must not keep an operator from acting
		c.MaxAge = operatorMaxAge
	}}
}

// common is what all streams and buckets share.
func (p Plan) common(c *jetstream.StreamConfig, maxBytes, defaultMaxBytes int64) {
	c.Storage = jetstream.FileStorage
	c.Discard = jetstream.DiscardNew // a full stream says so; the other policy would drop what nobody has read
	c.DiscardNewPerSubject = false
	c.Replicas = cmp.Or(p.Replicas, c.Replicas, 1)
	c.MaxBytes = cmp.Or(maxBytes, max(0, c.MaxBytes), defaultMaxBytes)
	c.MaxMsgs = -1
	c.AllowDirect = true
	c.NoAck = false
	// With s2, a replica that comes back after a crash can compress the block that it then goes on writing plainly
	// (nats-server 2.15.2): at its next start it cannot read the stream.
	c.Compression = jetstream.NoCompression
}

// bucket is a KV bucket, made as nats.go makes one.
func (p Plan) bucket(name string, ttl time.Duration, maxBytes, defaultMaxBytes int64) wantedStream {
	return wantedStream{bucketPrefix + name, func(c *jetstream.StreamConfig) {
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

// A wanted consumer is a shape in the same sense.
type wantedConsumer struct {
	stream string
	name   string
	begin  Begin
	shape  func(*jetstream.ConsumerConfig)
}

func (w wantedConsumer) object() string { return "consumer " + w.name + " on " + w.stream }

// eventConsumer is the worker's consumer on the events.
func (w WorkerPlan) eventConsumer(s Source) wantedConsumer {
	return wantedConsumer{s.Stream(), w.Name, w.Begin, func(c *jetstream.ConsumerConfig) {
		w.common(c)
		c.FilterSubject, c.FilterSubjects = "", w.Filters(s)
		c.MaxAckPending = cmp.Or(w.MaxAckPending, DefaultMaxAckPending)
	}}
}

// parkedConsumer is the worker's consumer on what it parked. It begins with all: nothing that waits may be passed over.
func (w WorkerPlan) parkedConsumer(s Source) wantedConsumer {
	return wantedConsumer{s.ParkedStream(), w.Name, BeginAll(), func(c *jetstream.ConsumerConfig) {
		w.common(c)
		c.FilterSubject, c.FilterSubjects = "", []string{s.ParkedFilter(w.Name)}
		c.MaxAckPending = parkedPending
	}}
}

func (w WorkerPlan) common(c *jetstream.ConsumerConfig) {
	c.Name, c.Durable = w.Name, w.Name
	c.AckPolicy = jetstream.AckExplicitPolicy
	c.AckWait = cmp.Or(w.AckWait, DefaultAckWait)
	c.MaxDeliver = -1 // the claim counts attempts; a server that gives up would lose the event
	c.BackOff = nil   // it would rewrite AckWait and add itself to every delay
	c.InactiveThreshold = 0
	c.HeadersOnly = false
	c.MaxWaiting = cmp.Or(c.MaxWaiting, maxWaiting)
	if c.Metadata[ownerKey] != owner {
		meta := map[string]string{ownerKey: owner}
		for k, v := range c.Metadata {
			meta[k] = v
		}
		meta[ownerKey] = owner
		c.Metadata = meta
	}
}

// deliverFrom says where a new consumer begins. It cannot be changed afterwards.
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

// A setting is one line of a difference report.
type setting[C any] struct {
	name string
	of   func(*C) any
}

// diff lists the settings in which have and want differ; without have it lists all of want.
func diff[C any](settings []setting[C], have, want *C) []Field {
	var fields []Field
	for _, s := range settings {
		f := Field{Name: s.name, Want: show(s.of(want))}
		if have != nil {
			f.Have = show(s.of(have))
		}
		if f.Have != f.Want {
			fields = append(fields, f)
		}
	}
	return fields
}

var streamSettings = []setting[jetstream.StreamConfig]{
	{"subjects", func(c *jetstream.StreamConfig) any { return c.Subjects }},
	{"storage", func(c *jetstream.StreamConfig) any { return c.Storage }},
	{"retention", func(c *jetstream.StreamConfig) any { return c.Retention }},
	{"discard", func(c *jetstream.StreamConfig) any { return c.Discard }},
	{"discard new per subject", func(c *jetstream.StreamConfig) any { return c.DiscardNewPerSubject }},
	{"max age", func(c *jetstream.StreamConfig) any { return c.MaxAge }},
	{"duplicate window", func(c *jetstream.StreamConfig) any { return c.Duplicates }},
	{"max bytes", func(c *jetstream.StreamConfig) any { return size(c.MaxBytes) }},
	{"max messages", func(c *jetstream.StreamConfig) any { return c.MaxMsgs }},
	{"max messages per subject", func(c *jetstream.StreamConfig) any { return c.MaxMsgsPerSubject }},
	{"compression", func(c *jetstream.StreamConfig) any { return c.Compression }},
	{"replicas", func(c *jetstream.StreamConfig) any { return c.Replicas }},
	{"direct get", func(c *jetstream.StreamConfig) any { return c.AllowDirect }},
	{"rollup", func(c *jetstream.StreamConfig) any { return c.AllowRollup }},
	{"deny delete", func(c *jetstream.StreamConfig) any { return c.DenyDelete }},
	{"no ack", func(c *jetstream.StreamConfig) any { return c.NoAck }},
}

var consumerSettings = []setting[jetstream.ConsumerConfig]{
	{"filters", func(c *jetstream.ConsumerConfig) any { return filtersOf(c) }},
	{"ack policy", func(c *jetstream.ConsumerConfig) any { return c.AckPolicy }},
	{"ack wait", func(c *jetstream.ConsumerConfig) any { return c.AckWait }},
	{"max deliver", func(c *jetstream.ConsumerConfig) any { return c.MaxDeliver }},
	{"backoff", func(c *jetstream.ConsumerConfig) any { return fmt.Sprint(c.BackOff) }},
	{"max ack pending", func(c *jetstream.ConsumerConfig) any { return c.MaxAckPending }},
	{"max waiting", func(c *jetstream.ConsumerConfig) any { return c.MaxWaiting }},
	{"inactive threshold", func(c *jetstream.ConsumerConfig) any { return c.InactiveThreshold }},
	{"headers only", func(c *jetstream.ConsumerConfig) any { return c.HeadersOnly }},
	{"owner", func(c *jetstream.ConsumerConfig) any { return c.Metadata[ownerKey] }},
}

// filtersOf are the filters of a consumer, however it names them; one without any takes everything.
func filtersOf(c *jetstream.ConsumerConfig) []string {
	switch {
	case len(c.FilterSubjects) > 0:
		return c.FilterSubjects
	case c.FilterSubject != "":
		return []string{c.FilterSubject}
	}
	return []string{">"}
}

// size is a number of bytes that shows itself in binary units.
type size int64

func (b size) String() string {
	for _, u := range []struct {
		bytes size
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if b >= u.bytes {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(b)/float64(u.bytes)), ".0") + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", int64(b))
}

// show is a setting for people: sorted lists, days where they are whole.
func show(v any) string {
	switch v := v.(type) {
	case []string:
		v = slices.Clone(v)
		slices.Sort(v)
		return strings.Join(v, " ")
	case time.Duration:
		if v > 0 && v%(24*time.Hour) == 0 {
			return fmt.Sprintf("%dd", v/(24*time.Hour))
		}
		return v.String()
	case string:
		return cmp.Or(v, "none")
	}
	return fmt.Sprint(v)
}
