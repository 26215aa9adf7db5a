package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestReadGivesWhatWasStored(t *testing.T) {
	s := streamtest.New(t)
	for i := range 5 {
		putWrite(t, s.JS, fmt.Sprintf("msg_%d", i+1))
	}
	put(t, s.JS, "company.created", "msg_6", "{}")
	tests := []struct {
		name string
		cfg  jetstream.OrderedConsumerConfig
		want []uint64
	}{
		{"all", jetstream.OrderedConsumerConfig{}, []uint64{1, 2, 3, 4, 5, 6}},
		{"of a type", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"codat.events.company.>"}}, []uint64{6}},
		{"of a type without any", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"codat.events.bills.>"}}, nil},
		{"of a type whose last is not the stream's", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"codat.events.invoices.>"}}, []uint64{1, 2, 3, 4, 5}},
		{"from a sequence on", jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 5}, []uint64{5, 6}},
		{"after the last", jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 7}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []uint64
			var done, of uint64
			last, err := stream.Read(within(t, patience), s.JS, codatSource.Stream(), tt.cfg, func(_ jetstream.Msg, m *jetstream.MsgMetadata) error {
				got = append(got, m.Sequence.Stream)
				return nil
			}, func(d, o uint64) { done, of = d, o })
			if err != nil || last != 6 || !slices.Equal(got, tt.want) {
				t.Errorf("Read() = %d, %v, with %d; want 6 and %d", last, err, got, tt.want)
			}
			if done != uint64(len(tt.want)) || of != done {
				t.Errorf("at the end its progress is %d of %d", done, of)
			}
		})
	}
}

func TestReadEnds(t *testing.T) {
	s := streamtest.New(t)
	nothing := func(jetstream.Msg, *jetstream.MsgMetadata) error { return nil }
	if last, err := stream.Read(within(t, patience), s.JS, codatSource.Stream(), jetstream.OrderedConsumerConfig{}, nothing, nil); err != nil || last != 0 {
		t.Errorf("Read() of an empty stream = %d, %v", last, err)
	}
	if _, err := stream.Read(within(t, patience), s.JS, "OTHER", jetstream.OrderedConsumerConfig{}, nothing, nil); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("Read() of no stream = %v", err)
	}
	for i := range 10 {
		putWrite(t, s.JS, fmt.Sprintf("msg_%d", i))
	}
	enough := errors.New("enough")
	if _, err := stream.Read(within(t, patience), s.JS, codatSource.Stream(), jetstream.OrderedConsumerConfig{}, func(jetstream.Msg, *jetstream.MsgMetadata) error { return enough }, nil); !errors.Is(err, enough) {
		t.Errorf("Read() = %v; want what the callback said", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := stream.Read(ctx, s.JS, codatSource.Stream(), jetstream.OrderedConsumerConfig{}, func(jetstream.Msg, *jetstream.MsgMetadata) error {
		cancel()
		return nil
	}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Read() with a context that ends = %v", err)
	}
}
