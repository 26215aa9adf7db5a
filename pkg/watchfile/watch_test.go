package watchfile

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
)

// watch runs Watch until the test ends, and returns a function that waits for the next call.
func watch(t *testing.T, names []string, interval time.Duration) (next func(what string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	calls, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, names, interval, zap.NewNop(), func() {
			select {
			case calls <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func(what string) {
		t.Helper()
		select {
		case <-calls:
		case <-time.After(time.Minute):
			t.Fatalf("%s: no call within a minute", what)
		}
	}
}

func TestWatch_CallsAtTheIntervalWithoutAnEvent(t *testing.T) {
	t.Parallel()
	next := watch(t, nil, time.Millisecond)
	for range 3 {
		next("the interval")
	}
}

func TestWatch_CallsWhenAFileChanges(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "file")
	next := watch(t, []string{name}, time.Hour)
	next("the start")
	put(t, name, "a")
	next("a new file")
	put(t, name, "b")
	next("a file that is written")
}
