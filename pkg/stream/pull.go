package stream

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	pullPause   = time.Second     // between an interruption and the next request for deliveries
	goneTimeout = 2 * time.Second // for the server to say whether the consumer is still there
	// pullHeartbeat is how often a server shows that it still has a request. A request that a leader has lost, as when it
	// moves, is noticed after two heartbeats.
	pullHeartbeat = time.Second

	watchPause   = 2 * time.Second // between two questions whether a server leads the consumer
	watchTimeout = 2 * time.Second // for the answer
)

// PullOptions say how deliveries are taken and what happens with them. Begin and Return are required.
type PullOptions struct {
	// Slots bounds the deliveries that are worked on at once; 1 if zero.
	Slots int
	// Ahead is how many deliveries are asked for at once; Slots if zero. The AckWait of a delivery runs from the moment at
	// which the server sends it, so more than Slots is for consumers without acks, and for handlers that take no time.
	Ahead int
	// Expiry is how long one request for deliveries waits at the server; 30 s if zero.
	Expiry time.Duration
	// Conn is the connection of the consumer. It leaves a server that has lost its peers, for another one; nil: it stays.
	Conn *nats.Conn
	// Begin begins the work on a delivery, which has a slot until done is called: once, from any goroutine. ctx is that of
	// Run. The next delivery is taken when Begin has returned.
	Begin func(ctx context.Context, m jetstream.Msg, done func())
	// Return gives a delivery back that was taken and not begun, because the context of Run had ended.
	Return func(m jetstream.Msg)
	// Interrupted is told why deliveries cannot be taken now, before Run asks again; nil if nobody has to know.
	Interrupted func(err error)
	// Paused is told when the pause of the consumer begins, changes or has ended, some seconds later, and when Run finds it paused; it
	// needs Conn. Run goes on: the server gives nothing until the pause ends. May be nil.
	Paused func(Pause)
}

// A Pull takes the deliveries of one consumer.
type Pull struct {
	PullOptions
	consumer jetstream.Consumer
	slots    chan struct{} // as many elements as slots are taken
	release  func()
}

// NewPull returns the pull of a consumer. It takes nothing before Run.
func NewPull(c jetstream.Consumer, o PullOptions) *Pull {
	o.Slots = cmp.Or(o.Slots, 1)
	o.Ahead = cmp.Or(o.Ahead, o.Slots)
	o.Expiry = cmp.Or(o.Expiry, 30*time.Second)
	p := &Pull{PullOptions: o, consumer: c, slots: make(chan struct{}, o.Slots)}
	p.release = func() { <-p.slots }
	return p
}

// Run takes deliveries until ctx ends, and then returns nil. It begins one when a slot is free, and asks again a second
// after an interruption, for which no restart and no election of a leader is too long. It returns an error when nothing
// can come any more, as Ended does.
//
// Run does not wait for what was begun: its slots stay taken, also for a later Run. There is one Run at a time.
func (p *Pull) Run(ctx context.Context) error {
	watching, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end()
	if p.Conn != nil {
		watch.Go(func() { p.watch(watching) })
	}
	for ctx.Err() == nil {
		err := p.take(ctx)
		if err == nil {
			continue
		}
		if ended := p.Ended(ctx); ended != nil {
			return ended
		}
		if ctx.Err() != nil {
			return nil
		}
		if p.Interrupted != nil {
			p.Interrupted(err)
		}
		if !errors.Is(err, jetstream.ErrNoHeartbeat) { // which has waited already
			pause(ctx, pullPause)
		}
	}
	return nil
}

// watch asks about the consumer until ctx ends, and leaves a server that does not answer or does not lead it any more: a
// request for deliveries may wait at such a server, which the server itself does not notice for 20 s.
func (p *Pull) watch(ctx context.Context) {
	var o outage
	var seen Pause
	for pause(ctx, watchPause) {
		began := time.Now()
		asking, cancel := context.WithTimeout(ctx, watchTimeout)
		info, err := p.consumer.Info(asking)
		cancel()
		idle := false
		if err == nil {
			err = leads(info.Cluster)
			idle = err != nil
		}
		switch {
		case ctx.Err() != nil:
			return
		case idle, unanswered(err):
			o.failed(p.Conn, began, err)
		default:
			o.answered()
		}
		if err != nil || p.Paused == nil {
			continue
		}
		if now := PauseOf(info); now != seen {
			seen = now
			p.Paused(now)
		}
	}
}

// take takes deliveries until ctx ends, which is no error, or an interruption. They are read while all slots are taken,
// too: the client drops what it does not read in time, as when a request is repeated on a new connection.
func (p *Pull) take(ctx context.Context) error {
	reading, end := context.WithCancel(ctx)
	defer end()
	// Repeated requests may bring a multiple of what was asked for.
	read, room := make(chan jetstream.Msg, 16*p.Ahead), make(chan struct{}, 1)
	var err error
	go func() {
		defer close(read)
		err = p.read(reading, read, room)
	}()
	for m := range read {
		select {
		case room <- struct{}{}:
		default:
		}
		select {
		case p.slots <- struct{}{}:
			if ctx.Err() == nil {
				p.Begin(ctx, m, p.release)
				continue
			}
			p.release()
		case <-ctx.Done():
		}
		p.Return(m)
	}
	return err
}

// read reads deliveries into read until ctx ends, which is no error, or an interruption. Each request asks for as many as
// are missing to p.Ahead. room says that one was taken out of read.
func (p *Pull) read(ctx context.Context, read chan<- jetstream.Msg, room <-chan struct{}) error {
	var ending sync.WaitGroup
	defer ending.Wait()
	for {
		missing := p.Ahead - len(read)
		for missing < (p.Ahead+1)/2 {
			select {
			case <-room:
			case <-ctx.Done():
				return nil
			}
			missing = p.Ahead - len(read)
		}
		msgs, err := p.consumer.Messages(jetstream.PullMaxMessages(missing), jetstream.PullThresholdMessages(1),
			jetstream.PullExpiry(p.Expiry), jetstream.PullHeartbeat(min(pullHeartbeat, p.Expiry/2)))
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, msgs.Drain)
		for ; missing > 0 && err == nil; missing-- {
			var m jetstream.Msg
			if m, err = msgs.Next(); err == nil {
				read <- m
			}
		}
		stop()
		msgs.Drain()
		// What the server has sent already comes before the end of the iterator.
		ending.Go(func() { drain(msgs, read) })
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// drain reads the rest of the deliveries of an iterator that is drained.
func drain(msgs jetstream.MessagesContext, read chan<- jetstream.Msg) {
	for {
		m, err := msgs.Next()
		switch {
		case err == nil:
			read <- m
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return
		}
	}
}

// takeInOrder is take for an ordered consumer, which has one iterator for good. It asks again for what the client drops. One
// request brings atOnce bytes at most, which must be as many as the largest message has.
func (p *Pull) takeInOrder(ctx context.Context, atOnce int) error {
	msgs, err := p.consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(p.Ahead, atOnce), jetstream.PullExpiry(p.Expiry))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	// What the server has sent already comes before the end of the iterator, so that it can be returned.
	defer context.AfterFunc(ctx, msgs.Drain)()
	for {
		slot := false
		select {
		case p.slots <- struct{}{}:
			slot = true
		case <-ctx.Done():
		}
		m, err := msgs.Next()
		if err == nil && ctx.Err() == nil {
			p.Begin(ctx, m, p.release)
			continue
		}
		if slot {
			p.release()
		}
		switch {
		case err == nil:
			p.Return(m)
		case ctx.Err() == nil:
			return err
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return nil
		}
	}
}

// Ended returns an error when nothing can come any more: jetstream.ErrConsumerNotFound when the consumer was deleted,
// jetstream.ErrStreamNotFound when its stream was, or nats.ErrConnectionClosed.
func (p *Pull) Ended(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	_, err := p.consumer.Info(ctx)
	switch {
	case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerNotFound):
		return jetstream.ErrConsumerNotFound
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return jetstream.ErrStreamNotFound
	case errors.Is(err, nats.ErrConnectionClosed):
		return nats.ErrConnectionClosed
	}
	return nil
}
