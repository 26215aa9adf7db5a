//go:build faults

package stream_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A link carries less in the time of a request than a batch may have. Nothing is cut off for it.
func TestRead_Faults_SlowLink(t *testing.T) {
	t.Parallel()
	const bytesPerSecond, messages, bodyLen = 300_000, 64, 64 << 10
	s := streamtest.New(t)
	for i := range messages {
		m := nats.NewMsg("codat.events.company.created")
		m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("msg_%d", i))
		m.Data = make([]byte, bodyLen)
		if _, err := s.JS.PublishMsg(within(t, patience), m); err != nil {
			t.Fatal(err)
		}
	}
	proxy := streamtest.NewProxy(t, strings.TrimPrefix(s.URL, "nats://"))
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: proxy.URL()}, "reader", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	proxy.Limit(bytesPerSecond)
	read := 0
	_, err = stream.Read(t.Context(), js, codatSource.Stream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		if read++; m.Sequence != uint64(read) {
			t.Errorf("message %d is number %d", m.Sequence, read)
		}
		return nil
	})
	if err != nil || read != messages || nc.Stats().Reconnects != 0 {
		t.Errorf("Read = %v after %d messages and %d reconnects; want %d and none", err, read, nc.Stats().Reconnects, messages)
	}
}
