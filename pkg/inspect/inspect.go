// Package inspect reads what is true of a source now and returns it as values: its streams, consumers, dead letters,
// running workers and servers, and single stored events. It changes nothing in NATS.
package inspect

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// requestTimeout bounds one request: a server answers within five seconds while a leader moves.
const requestTimeout = 10 * time.Second

// streamInfo returns the state of a stream. When subjects is not empty, the state counts the messages of each subject
// that matches it.
func streamInfo(ctx context.Context, js jetstream.JetStream, name, subjects string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	if subjects != "" {
		return st.Info(ctx, jetstream.WithSubjectFilter(subjects))
	}
	return st.CachedInfo(), nil
}
