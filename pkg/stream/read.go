package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	readAtOnce    = 4096                    // messages that are asked for at once
	readHeartbeat = 2500 * time.Millisecond // without one for twice as long, the request for messages is lost: the consumer is made anew
	readSilence   = 6 * time.Second         // without a message, before it is asked whether there are any left; longer than that
	readForgotten = 30 * time.Second        // without a reader, before the server drops the consumer
)

// Read calls each with every message that cfg chooses in a stream and that was stored when Read began, in order, until
// each returns an error, which Read then returns. It acknowledges nothing. progress hears after each message how many of
// about how many it was; it may be nil. Read returns the last sequence that was stored when it began: what is stored
// later comes after it.
func Read(ctx context.Context, js jetstream.JetStream, name string, cfg jetstream.OrderedConsumerConfig, each func(jetstream.Msg, *jetstream.MsgMetadata) error, progress func(done, of uint64)) (last uint64, err error) {
	doing := func(err error) error { return fmt.Errorf("reading stream %s: %w", name, err) }
	info, err := streamInfo(ctx, js, name)
	if err != nil {
		return 0, doing(err)
	}
	last = info.State.LastSeq
	if info.State.Msgs == 0 || cfg.DeliverPolicy == jetstream.DeliverByStartSequencePolicy && cfg.OptStartSeq > last {
		return last, nil
	}
	cfg.InactiveThreshold = readForgotten
	var cons jetstream.Consumer
	err = call(ctx, js, name, func(ctx context.Context) (err error) {
		cons, err = js.OrderedConsumer(ctx, name, cfg)
		return err
	})
	if err != nil {
		return 0, doing(err)
	}
	total := cons.CachedInfo().NumPending
	if total == 0 {
		return last, nil
	}
	msgs, err := cons.Messages(jetstream.PullMaxMessages(readAtOnce), jetstream.PullHeartbeat(readHeartbeat))
	if err != nil {
		return 0, doing(err)
	}
	defer msgs.Stop()
	defer context.AfterFunc(ctx, msgs.Stop)()
	for n := uint64(1); ; n++ {
		m, err := msgs.Next(jetstream.NextMaxWait(readSilence))
		switch {
		case ctx.Err() != nil:
			return 0, doing(ctx.Err())
		case errors.Is(err, nats.ErrTimeout):
			// What was left may have been removed meanwhile.
			left, err := cons.Info(ctx)
			if err != nil {
				return 0, doing(err)
			}
			if left.NumPending == 0 {
				return last, nil
			}
			continue
		case err != nil:
			return 0, doing(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return 0, doing(err)
		}
		if meta.Sequence.Stream > last {
			return last, nil
		}
		if err := each(m, meta); err != nil {
			return 0, err
		}
		if progress != nil {
			progress(min(n, total), total)
		}
		if meta.NumPending == 0 || meta.Sequence.Stream == last {
			return last, nil
		}
	}
}
