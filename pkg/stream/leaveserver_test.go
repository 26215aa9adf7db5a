package stream

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestOutage_LastsLongerThanAnElection(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1700000000, 0)
	at := func(d time.Duration) time.Time { return begin.Add(d) }
	var o outage
	for _, tt := range []struct {
		name         string
		answered     bool // before it
		began, ended time.Duration
		long         bool
	}{
		{"first failure", false, 0, 2500 * time.Millisecond, false},
		{"within an election", false, 3 * time.Second, 4900 * time.Millisecond, false},
		{"longer than an election", false, 5 * time.Second, 5 * time.Second, true},
		{"after an answer", true, 6 * time.Second, 8 * time.Second, false},
		{"long after the last failure", false, time.Hour, time.Hour + time.Second, false},
		{"longer than an election again", false, time.Hour, time.Hour + 5*time.Second, true},
	} {
		if tt.answered {
			o.answered()
		}
		if _, long := o.add(at(tt.began), at(tt.ended)); long != tt.long {
			t.Errorf("%s: long = %t; want %t", tt.name, long, tt.long)
		}
	}
}

func TestLeaver_PausesBeforeItLeavesTheNextServer(t *testing.T) {
	t.Parallel()
	now := time.Unix(1700000000, 0)
	var l leaver
	var left []time.Duration
	for after := time.Duration(0); after < 30*time.Minute; after += time.Second {
		if l.due(now.Add(after)) {
			left = append(left, after)
		}
	}
	want := []time.Duration{0, 20 * time.Second, time.Minute, 140 * time.Second, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 25 * time.Minute}
	if fmt.Sprint(left) != fmt.Sprint(want) {
		t.Errorf("it leaves after %v; want %v", left, want)
	}
	if at := now.Add(2 * time.Hour); !l.due(at) || l.due(at.Add(19*time.Second)) || !l.due(at.Add(20*time.Second)) {
		t.Error("a long time later it does not begin with the shortest pause")
	}
}

func TestLeads_NeedsALeaderThatHearsOfMostPeers(t *testing.T) {
	t.Parallel()
	heard, silent := &jetstream.PeerInfo{Active: time.Second}, &jetstream.PeerInfo{Active: time.Minute}
	for _, tt := range []struct {
		name  string
		peers []*jetstream.PeerInfo
		want  bool
	}{
		{"alone by design", nil, false},
		{"one of two", []*jetstream.PeerInfo{silent}, true},
		{"two of three", []*jetstream.PeerInfo{heard, silent}, false},
		{"one of three", []*jetstream.PeerInfo{silent, silent}, true},
		{"two of five", []*jetstream.PeerInfo{heard, silent, silent, silent}, true},
		{"three of five", []*jetstream.PeerInfo{heard, heard, silent, silent}, false},
	} {
		if err := leads(&jetstream.ClusterInfo{Name: "cluster", Leader: "a", Replicas: tt.peers}); (err != nil) != tt.want {
			t.Errorf("%s: leads = %v; want an error: %t", tt.name, err, tt.want)
		}
	}
	if err := leads(&jetstream.ClusterInfo{Name: "cluster", Replicas: []*jetstream.PeerInfo{heard, heard}}); err == nil {
		t.Error("a stream without a leader leads")
	}
	for _, alone := range []*jetstream.ClusterInfo{nil, {Leader: "a"}, {}} {
		if err := leads(alone); err != nil {
			t.Errorf("leads of a server without a cluster = %v", err)
		}
	}
}

func TestUnanswered_IsNoAnswerOfJetStream(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		context.DeadlineExceeded: true, nats.ErrTimeout: true, nats.ErrNoResponders: true,
		&jetstream.APIError{Code: 503, ErrorCode: codeClusterNotAvailable}: true,
		jetstream.ErrStreamNotFound:                                        false, context.Canceled: false, errors.New("other"): false, nats.ErrPermissionViolation: false,
	} {
		if got := unanswered(err); got != want {
			t.Errorf("unanswered(%v) = %t; want %t", err, got, want)
		}
	}
}
