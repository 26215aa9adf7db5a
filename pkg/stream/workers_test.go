package stream_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestWorkers_OnlyConsumersOfWorkers(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, writes, connections)
	if _, err := s.JS.CreateConsumer(t.Context(), codatSource.Stream(), jetstream.ConsumerConfig{Durable: "billing"}); err != nil {
		t.Fatal(err)
	}
	all, err := stream.Workers(within(t, patience), s.JS, codatSource)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, w := range all {
		names = append(names, w.Name)
	}
	if len(names) != 2 || names[0] != "connections" || names[1] != "writes" {
		t.Errorf("Workers() = %q; want connections and writes", names)
	}
	if _, err := stream.Workers(within(t, patience), s.JS, "other"); err == nil {
		t.Error("Workers() of a source that is not provisioned = nil; want an error")
	}
}

func TestTakes_MatchesFilters(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		c       jetstream.ConsumerConfig
		subject string
		want    bool
	}{
		{"its type", jetstream.ConsumerConfig{FilterSubject: "codat.events.a.b"}, "codat.events.a.b", true},
		{"another type", jetstream.ConsumerConfig{FilterSubject: "codat.events.a.b"}, "codat.events.a.c", false},
		{"its pattern among others", jetstream.ConsumerConfig{FilterSubjects: []string{"codat.redrive.w.>", "codat.events.*.b"}}, "codat.events.a.b", true},
		{"no filter is all", jetstream.ConsumerConfig{}, "codat.quarantine", true},
	}
	for _, tt := range tests {
		if got := stream.Takes(tt.c, tt.subject); got != tt.want {
			t.Errorf("%s: Takes() = %v; want %v", tt.name, got, tt.want)
		}
	}
}
