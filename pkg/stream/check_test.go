package stream_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A stream that is there and has room, and yet stores no event or does not say that it has.
func TestCheck_NamesSettingsThatRefuseEvents(t *testing.T) {
	t.Parallel()
	const limitOfBody = 1 << 20
	tests := []struct {
		name   string
		change func(*jetstream.StreamConfig)
		says   []string // nothing when it takes all events
	}{
		{"sealed", func(c *jetstream.StreamConfig) { c.Sealed = true }, []string{"sealed", "headgate provision"}},
		{"without acks", func(c *jetstream.StreamConfig) { c.NoAck = true }, []string{"no_ack", "headgate provision"}},
		{
			"for messages that are smaller than the largest",
			func(c *jetstream.StreamConfig) { c.MaxMsgSize = limitOfBody + stream.HeaderRoom - 1 },
			[]string{"takes messages of", "nats stream edit CODAT --max-msg-size=-1"},
		},
		{"for messages as large as the largest", func(c *jetstream.StreamConfig) { c.MaxMsgSize = limitOfBody + stream.HeaderRoom }, nil},
		{
			"of other subjects",
			func(c *jetstream.StreamConfig) { c.Subjects = []string{"codat.redrive.>"} },
			[]string{"does not take codat.events.> codat.quarantine:", "headgate provision"},
		},
		{
			"of some events",
			func(c *jetstream.StreamConfig) { c.Subjects = []string{"codat.events.company.>", "codat.quarantine"} },
			[]string{"does not take codat.events.>:", "headgate provision"},
		},
		{
			"without the quarantine",
			func(c *jetstream.StreamConfig) { c.Subjects = []string{"codat.events.>"} },
			[]string{"does not take codat.quarantine:", "headgate provision"},
		},
		{"of wider subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"codat.*.>", "codat.*"} }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := streamtest.Empty(t)
			config := jetstream.StreamConfig{Name: "CODAT", Subjects: []string{"codat.events.>", "codat.quarantine"}}
			made, err := s.JS.CreateStream(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			config = made.CachedInfo().Config
			tt.change(&config)
			if _, err := s.JS.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			err = codatSource.Check(within(t, patience), s.JS, limitOfBody)
			if (err != nil) != (tt.says != nil) {
				t.Fatalf("Check() = %v; want it to say %q", err, tt.says)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Check() = %v; want it to say %q", err, want)
				}
			}
		})
	}
}

// What Check says to run mends what it says.
func TestProvision_CuresWhatCheckFinds(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	limit(t, s, func(c *jetstream.StreamConfig) { c.NoAck, c.Subjects = true, []string{"codat.redrive.>"} })
	if err := codatSource.Check(within(t, patience), s.JS, 1<<20); err == nil {
		t.Error("Check() = nil")
	}
	streamtest.Provision(t, s.JS, stream.Layout{Source: codatSource})
	if err := codatSource.Check(within(t, patience), s.JS, 1<<20); err != nil {
		t.Errorf("Check() after headgate provision = %v", err)
	}
}
