package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

var pausable = stream.WorkerSpec{Name: "writes", Types: []codat.Pattern{"*.write.successful"}}

// pausesOf returns the pauses of both consumers of a worker.
func pausesOf(t *testing.T, js jetstream.JetStream, worker string) (events, parked stream.Pause) {
	t.Helper()
	of := func(in string) stream.Pause {
		c, err := js.Consumer(within(t, patience), in, worker)
		if err != nil {
			t.Fatal(err)
		}
		return stream.PauseOf(c.CachedInfo())
	}
	return of(codatSource.Stream()), of(codatSource.ParkedStream())
}

// What Provision changes on a paused consumer leaves its pause, a dry run finds no difference, and the pause holds after a
// restart of the server.
func TestPauseWorker_SurvivesRestartAndProvision(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, pausable)
	until := time.Now().Add(time.Hour).UTC()
	if err := stream.PauseWorker(t.Context(), s.JS, codatSource, "writes", until); err != nil {
		t.Fatal(err)
	}
	layout := stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{pausable}}
	for range 2 {
		changes, err := stream.Provision(t.Context(), s.JS, layout, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if c.Action != stream.Same {
				t.Errorf("a dry run says\n%s", c)
			}
		}
		layout.Workers[0].AckWait = 90 * time.Second
		streamtest.Provision(t, s.JS, layout)
		s.Restart()
	}
	want := stream.Pause{Paused: true, Until: until}
	if events, parked := pausesOf(t, s.JS, "writes"); events != want || parked != want {
		t.Errorf("the pauses are %v and %v; want both %v", events, parked, want)
	}
	if err := stream.PauseWorker(t.Context(), s.JS, codatSource, "writes", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if events, parked := pausesOf(t, s.JS, "writes"); events != (stream.Pause{Paused: true}) || parked != events {
		t.Errorf("the pauses are %v and %v; want both until headgate resume", events, parked)
	}
	if err := stream.ResumeWorker(t.Context(), s.JS, codatSource, "writes"); err != nil {
		t.Fatal(err)
	}
	if events, parked := pausesOf(t, s.JS, "writes"); events.Paused || parked.Paused {
		t.Errorf("the pauses are %v and %v; want none", events, parked)
	}
}

func TestPauseWorker_RefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, pausable)
	for worker, until := range map[string]time.Time{"writes": time.Now().Add(-time.Second), "a.b": {}} {
		if err := stream.PauseWorker(t.Context(), s.JS, codatSource, worker, until); err == nil || errors.Is(err, stream.ErrNotProvisioned) {
			t.Errorf("PauseWorker of %s until %v = %v; want another error", worker, until, err)
		}
	}
	for _, err := range []error{
		stream.PauseWorker(t.Context(), s.JS, codatSource, "other", time.Time{}),
		stream.ResumeWorker(t.Context(), s.JS, codatSource, "other"),
	} {
		if !errors.Is(err, stream.ErrNotProvisioned) || !strings.Contains(err.Error(), "headgate provision") {
			t.Errorf("of a worker that does not exist = %v; want ErrNotProvisioned and the cure", err)
		}
	}
}

// After an error of one consumer, the error says that the other is paused, or resumed.
func TestPauseWorker_SaysForWhatItHolds(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, pausable)
	if err := s.JS.DeleteConsumer(t.Context(), codatSource.Stream(), "writes"); err != nil {
		t.Fatal(err)
	}
	for doing, err := range map[string]error{
		"pause":  stream.PauseWorker(t.Context(), s.JS, codatSource, "writes", time.Time{}),
		"resume": stream.ResumeWorker(t.Context(), s.JS, codatSource, "writes"),
	} {
		want := doing + " holds for its consumer on " + codatSource.ParkedStream() + " only: run headgate " + doing + " again"
		if !errors.Is(err, stream.ErrNotProvisioned) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want ErrNotProvisioned and %q", err, want)
		}
	}
}

// A pull sees a pause of its consumer, and is not interrupted by it; what came meanwhile is delivered after the pause.
func TestPull_SaysWhenItsConsumerIsPaused(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, pausable)
	c, err := s.JS.Consumer(within(t, patience), codatSource.Stream(), "writes")
	if err != nil {
		t.Fatal(err)
	}
	pauses, delivered, interrupted := make(chan stream.Pause, 16), make(chan struct{}, 16), make(chan error, 16)
	runPull(t, c, stream.PullOptions{
		Conn: s.NC, Paused: func(p stream.Pause) { pauses <- p }, Interrupted: func(err error) { interrupted <- err },
		Begin: func(_ context.Context, m jetstream.Msg, done func()) {
			_ = m.Ack()
			delivered <- struct{}{}
			done()
		},
	})
	// Between two of these are heartbeats of the server, without which the pull would be interrupted.
	for i, until := range []time.Time{time.Now().Add(time.Hour).UTC(), time.Now().Add(2 * time.Hour).UTC(), {}} {
		if err := stream.PauseWorker(t.Context(), s.JS, codatSource, "writes", until); err != nil {
			t.Fatal(err)
		}
		if p := <-pauses; p != (stream.Pause{Paused: true, Until: until}) {
			t.Errorf("the pull is told %v; want a pause until %v", p, until)
		}
		putWrite(t, s.JS, fmt.Sprintf("msg_%d", i))
	}
	streamtest.WaitPending(t, s.JS, codatSource.Stream(), "writes", 3)
	streamtest.Wait(t, func() bool {
		info, err := c.Info(within(t, patience))
		return err == nil && info.NumWaiting > 0
	}, "a pull waits during the pause")
	if info, err := c.Info(within(t, patience)); err != nil || info.Delivered.Consumer != 0 {
		t.Errorf("during the pause the consumer is %+v, %v; want nothing delivered", info, err)
	}
	select {
	case err := <-interrupted:
		t.Errorf("the pull was interrupted: %v", err)
	default:
	}
	if err := stream.ResumeWorker(t.Context(), s.JS, codatSource, "writes"); err != nil {
		t.Fatal(err)
	}
	<-delivered
	if p := <-pauses; p.Paused {
		t.Errorf("the pull is told %v after the pause", p)
	}
}
