package main

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/connections"
)

func TestPause_IsShownAndRecorded(t *testing.T) {
	t.Parallel()
	r := newBroker(t, bookkeeper(nil).Spec())
	contains(t, r.headgate(0, "pause", "bookkeeper").out.String(), "bookkeeper is paused until headgate resume\n")
	contains(t, r.headgate(0, "workers").err.String(), "bookkeeper is paused by an operator until headgate resume; no process of it runs")
	c := r.headgate(0, "pause", "bookkeeper", "--until", "2h")
	contains(t, c.out.String(), "bookkeeper is paused until 20")
	contains(t, c.err.String(), "each is kept for 16 days")
	r.work(bookkeeper(nil))
	streamtest.Wait(t, func() bool { return r.headgate(0, "workers").out.String() != "" }, "the worker to show up")
	contains(t, r.headgate(0, "workers").out.String(), "bookkeeper", "paused by an operator until 20")
	running := decode[struct {
		Worker              string
		ConsumerPaused      bool      `json:"consumer_paused"`
		ConsumerPausedUntil time.Time `json:"consumer_paused_until"`
	}](t, r.headgate(0, "workers", "--json").out.lines())
	if len(running) != 1 || running[0].Worker != "bookkeeper" || !running[0].ConsumerPaused || time.Until(running[0].ConsumerPausedUntil) < time.Hour {
		t.Errorf("workers --json prints %+v", running)
	}
	contains(t, r.headgate(0, "resume", "bookkeeper").out.String(), "bookkeeper receives its events again")
	if shown := r.headgate(0, "workers").out.String(); strings.Contains(shown, "paused") {
		t.Errorf("after resume, workers prints\n%s", shown)
	}
	d := r.records()
	if len(d) != 6 || d[0].Command != "pause" || d[0].Step != "begin" || d[0].Chosen["worker"] != "bookkeeper" || d[0].Chosen["until"] != nil ||
		d[3].Chosen["until"] == nil || d[5].Command != "resume" || d[5].Step != "end" || d[5].Given != 1 {
		t.Errorf("the records are %+v", d)
	}
}

func TestPause_RefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	r := newBroker(t, bookkeeper(nil).Spec())
	for _, args := range []string{"pause", "pause a.b", "pause bookkeeper --until 2020-01-01", "pause bookkeeper --until 0s", "pause bookkeeper --until -5m", "resume a.b"} {
		r.headgate(2, strings.Fields(args)...)
	}
	contains(t, r.headgate(1, "pause", "nobody").err.String(), `no worker "nobody" is provisioned`, "headgate provision")
	contains(t, r.headgate(1, "resume", "nobody").err.String(), `no worker "nobody" is provisioned`)
	if n := len(r.records()); n != 0 {
		t.Errorf("there are %d records; want none", n)
	}
	headgate(t, 3, "pause", "bookkeeper", "--nats-url", "nats://127.0.0.1:1", "--connect-timeout", "100ms")
}

func TestUntilFlag_Parses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"90m": 90 * time.Minute, "3d": 72 * time.Hour} {
		var u untilFlag
		if err := u.UnmarshalText([]byte(text)); err != nil || time.Until(u.Time) > want || time.Until(u.Time) < want-time.Minute {
			t.Errorf("%s is %v, %v", text, u.Time, err)
		}
	}
	var u untilFlag
	if err := u.UnmarshalText([]byte("2090-01-31T15:04:05Z")); err != nil || !u.Equal(time.Date(2090, 1, 31, 15, 4, 5, 0, time.UTC)) {
		t.Errorf("it is %v, %v", u.Time, err)
	}
}

// The metric of headgate watch that HeadgateConsumerPaused is made of.
func TestWatch_ReportsAPause(t *testing.T) {
	t.Parallel()
	r := newBroker(t, connections.Worker(connections.Store{}).Spec())
	l := inspect.NewCollector(r.JS, source)
	for want, command := range map[float64]string{0: "resume", 1: "pause"} {
		r.headgate(0, command, "connections")
		mustCollectSeries(t, l).wants(t, metricValues{"consumer_paused" + onEvents: want, "consumer_paused" + onParked: want})
	}
}
