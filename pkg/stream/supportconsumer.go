package stream

import (
	"cmp"

	"github.com/nats-io/nats.go/jetstream"
)

// SupportConsumer is the durable on the events for people who may know of events and not read them. The server leaves out
// the bodies, and its user can make no other consumer. It has one place for all who log in as that user: a reader sets it
// with a reset, takes without acks, and begins anew when the numbers of its deliveries are not consecutive, because another
// reader has taken some.
const SupportConsumer = "support"

func (p Layout) supportConsumer() desiredConsumer {
	return desiredConsumer{p.Source.Stream(), SupportConsumer, "", BeginAll(), func(c *jetstream.ConsumerConfig) {
		c.Name, c.Durable = SupportConsumer, SupportConsumer
		c.FilterSubject, c.FilterSubjects = "", []string{p.Source.EventFilter(">"), p.Source.QuarantineSubject(), string(p.Source) + ".redrive.>"}
		c.HeadersOnly = true
		c.AckPolicy = jetstream.AckNonePolicy // to look settles nothing
		c.MaxDeliver = -1
		c.MaxWaiting = cmp.Or(c.MaxWaiting, maxWaiting)
		own(c)
	}}
}

// IsWorkers reports whether a consumer of this configuration is one of a worker that Provision made, and not another service's.
func IsWorkers(c jetstream.ConsumerConfig) bool {
	return c.Metadata[ownerKey] == owner && !c.HeadersOnly
}
