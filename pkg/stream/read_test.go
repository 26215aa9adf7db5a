package stream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestRead_VisitsStoredMessages(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for i := range 5 {
		putWrite(t, s.JS, fmt.Sprintf("msg_%d", i+1))
	}
	put(t, s.JS, "company.created", "msg_6", "{}")
	tests := []struct {
		name string
		opts stream.ReadOptions
		want []uint64
	}{
		{"all", stream.ReadOptions{}, []uint64{1, 2, 3, 4, 5, 6}},
		{"of a type", stream.ReadOptions{Filters: []string{"codat.events.company.>"}}, []uint64{6}},
		{"of a type without any", stream.ReadOptions{Filters: []string{"codat.events.bills.>"}}, nil},
		{"of a type whose last is not the stream's", stream.ReadOptions{Filters: []string{"codat.events.invoices.>"}}, []uint64{1, 2, 3, 4, 5}},
		{"from a sequence on", stream.ReadOptions{After: 4}, []uint64{5, 6}},
		{"after the last", stream.ReadOptions{After: 6}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []uint64
			var done, of uint64
			tt.opts.Progress = func(d, o uint64) { done, of = d, o }
			last, err := stream.Read(within(t, patience), s.JS, codatSource.Stream(), tt.opts, func(m *jetstream.RawStreamMsg) error {
				got = append(got, m.Sequence)
				return nil
			})
			if err != nil || last != 6 || !slices.Equal(got, tt.want) {
				t.Errorf("Read() = %d, %v, with %d; want 6 and %d", last, err, got, tt.want)
			}
			if done != uint64(len(tt.want)) || of != done {
				t.Errorf("at the end its progress is %d of %d", done, of)
			}
		})
	}
}

func TestRead_Ends(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	nothing := func(*jetstream.RawStreamMsg) error { return nil }
	if last, err := stream.Read(within(t, patience), s.JS, codatSource.Stream(), stream.ReadOptions{}, nothing); err != nil || last != 0 {
		t.Errorf("Read() of an empty stream = %d, %v", last, err)
	}
	if _, err := stream.Read(within(t, patience), s.JS, "OTHER", stream.ReadOptions{}, nothing); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("Read() of no stream = %v", err)
	}
	for i := range 10 {
		putWrite(t, s.JS, fmt.Sprintf("msg_%d", i))
	}
	enough := errors.New("enough")
	if _, err := stream.Read(within(t, patience), s.JS, codatSource.Stream(), stream.ReadOptions{}, func(*jetstream.RawStreamMsg) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("Read() = %v; want what the callback said", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := stream.Read(ctx, s.JS, codatSource.Stream(), stream.ReadOptions{}, func(*jetstream.RawStreamMsg) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Read() with a context that ends = %v", err)
	}
}

func TestGet_AsksTheLeaderWhereAReplicaIsBehind(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	putWrite(t, s.JS, "msg_1")
	want, err := stream.Get(t.Context(), s.JS, codatSource.Stream(), 1)
	if err != nil {
		t.Fatal(err)
	}
	behind := s.Behind(t)
	got, err := stream.Get(t.Context(), behind, codatSource.Stream(), 1)
	if err != nil {
		t.Fatalf("Get() of a message that the leader has = %v", err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreMapEntries(directHeader)); diff != "" {
		t.Errorf("the leader's message differs from the replica's (-replica +leader):\n%s", diff)
	}
	for _, sequence := range []uint64{0, 2} {
		if _, err := stream.Get(t.Context(), behind, codatSource.Stream(), sequence); !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("Get() of message %d, which no server has, = %v; want %v", sequence, err, jetstream.ErrMsgNotFound)
		}
	}
}

func TestGetAll_ReturnsInTheOrderAskedFor(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	const stored = 2500
	for i := range stored {
		m, err := codatSource.Message(stream.Stored{ID: fmt.Sprintf("msg_%d", i+1), Head: codat.Head{Type: "company.created"}, Received: time.Now()}, bytes.Repeat([]byte("x"), 200))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.JS.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	<-s.JS.PublishAsyncComplete()
	st, err := s.JS.Stream(t.Context(), codatSource.Stream())
	if err != nil {
		t.Fatal(err)
	}
	gone := []uint64{1, 7, 8, 1000, stored}
	for _, sequence := range gone {
		if err := st.DeleteMsg(t.Context(), sequence); err != nil {
			t.Fatal(err)
		}
	}
	every := func(step, from, to uint64) (all []uint64) {
		for ; from <= to; from += step {
			all = append(all, from)
		}
		return all
	}
	down := every(1, 1, 40)
	slices.Reverse(down)
	behind := s.Behind(t)
	for _, tt := range []struct {
		name      string
		js        jetstream.JetStream
		sequences []uint64
	}{
		{"all and what no server has", s.JS, every(1, 0, stored+20)},
		{"every third", s.JS, every(3, 1, stored)},
		{"every hundredth", s.JS, every(100, 100, stored)},
		{"newest first", s.JS, down},
		{"up and down", s.JS, slices.Concat(every(1, 5, 30), every(1, 900, 1100), every(2, 1, 50))},
		{"from the leader, because a replica is behind", behind, every(1, 1, 50)},
		{"none", s.JS, nil},
	} {
		want := slices.DeleteFunc(slices.Clone(tt.sequences), func(n uint64) bool { return n == 0 || n > stored || slices.Contains(gone, n) })
		var got []uint64
		err := stream.GetAll(t.Context(), tt.js, codatSource.Stream(), tt.sequences, func(m *jetstream.RawStreamMsg) bool {
			got = append(got, m.Sequence)
			if id := m.Header.Get(stream.HeaderWebhookID); id != fmt.Sprintf("msg_%d", m.Sequence) || len(m.Data) != 200 {
				t.Errorf("%s: message %d has the id %s and %d bytes", tt.name, m.Sequence, id, len(m.Data))
			}
			return true
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: GetAll() = %v with %d messages; want %d:\n%v", tt.name, err, len(got), len(want), got)
		}
	}
	n := 0
	if err := stream.GetAll(t.Context(), s.JS, codatSource.Stream(), every(1, 2, 40), func(*jetstream.RawStreamMsg) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("GetAll() = %v after %d messages; want it to end with the third", err, n)
	}
	if err := stream.GetAll(t.Context(), s.JS, "OTHER", []uint64{1}, nil); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("GetAll() of no stream = %v", err)
	}
}

// directHeader chooses what a server adds to the answer to a direct get.
func directHeader(name string, _ []string) bool {
	return strings.HasPrefix(name, "Nats-") && name != jetstream.MsgIDHeader
}

// Any replica answers a direct get. One that is behind says that there is no more; the leader knows better.
func TestRead_GoesOnWhereAReplicaIsBehind(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for i := range 4 {
		putWrite(t, s.JS, fmt.Sprintf("msg_%d", i+1))
	}
	st, err := s.JS.Stream(t.Context(), codatSource.Stream())
	if err != nil {
		t.Fatal(err)
	}
	// The replica: the server itself does not answer direct gets of this stream any more.
	cfg := st.CachedInfo().Config
	cfg.AllowDirect = false
	if st, err = s.JS.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	has := []uint64{0, 2, 2, 4} // its last message, at each request
	_, err = s.NC.Subscribe("$JS.API.DIRECT.GET."+codatSource.Stream(), func(m *nats.Msg) {
		var ask struct {
			Seq uint64 `json:"seq"`
		}
		if err := json.Unmarshal(m.Data, &ask); err != nil {
			t.Error(err)
		}
		last := has[0]
		has = has[min(1, len(has)-1):]
		answer := func(header nats.Header, data []byte) {
			if err := m.RespondMsg(&nats.Msg{Header: header, Data: data}); err != nil {
				t.Error(err)
			}
		}
		if ask.Seq > last {
			answer(nats.Header{"Status": {"404"}, "Description": {"Message Not Found"}}, nil)
			return
		}
		for n := ask.Seq; n <= last; n++ {
			found, err := st.GetMsg(t.Context(), n)
			if err != nil {
				t.Error(err)
				return
			}
			answer(nats.Header{
				jetstream.StreamHeader: {codatSource.Stream()}, jetstream.SubjectHeader: {found.Subject}, jetstream.SequenceHeader: {fmt.Sprint(n)},
				jetstream.TimeStampHeaer: {found.Time.Format(time.RFC3339Nano)}, "Nats-Num-Pending": {fmt.Sprint(last - n)},
			}, found.Data)
		}
		answer(nats.Header{"Status": {"204"}, "Description": {"EOB"}, "Nats-Num-Pending": {"0"}}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	_, err = stream.Read(within(t, patience), s.JS, codatSource.Stream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		got = append(got, m.Sequence)
		return nil
	})
	if want := []uint64{1, 2, 3, 4}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Read() = %v, with %d; want %d", err, got, want)
	}
}
