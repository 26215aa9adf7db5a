package ingress

import (
	"context"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/stream"
)

// provisionInterval is the time between two looks whether the streams of a source are still there.
const provisionInterval = 5 * time.Second

// keepProvisioned makes the streams of a source, and makes them again when two looks in a row, an interval apart, do not
// find one. That is loud, because what a stream held is gone with it. It returns when ctx ends.
func keepProvisioned(ctx context.Context, js jetstream.JetStream, src *source, interval time.Duration, log *zap.Logger) {
	provision(ctx, js, src.Name, log)
	var before []string
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		missing := missingStreams(ctx, js, src.Name, log)
		if len(missing) > 0 && slices.Equal(missing, before) && ctx.Err() == nil {
			src.handler.metrics.streamsRemade.Add(float64(len(missing)))
			log.Error("streams were gone and are made again: the events that they held are lost here, and Codat's replay can send them again",
				zap.String("source", string(src.Name)), zap.Strings("objects", missing))
			provision(ctx, js, src.Name, log)
			missing = nil
		}
		before = missing
	}
}

// missingStreams returns the streams and buckets of a source that do not exist, and nothing when NATS does not answer.
func missingStreams(ctx context.Context, js jetstream.JetStream, source stream.Source, log *zap.Logger) (missing []string) {
	changes, err := stream.Provision(ctx, js, stream.Layout{Source: source}, true)
	if err != nil {
		log.Debug("cannot tell which streams are missing", zap.Error(err))
	}
	for _, c := range changes {
		if c.Action == stream.Create {
			missing = append(missing, c.Object)
		}
	}
	return missing
}

// provision makes the streams of a source, and retries until it succeeds or ctx ends.
func provision(ctx context.Context, js jetstream.JetStream, source stream.Source, log *zap.Logger) {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 10 * time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		return struct{}{}, stream.EnsureProvisioned(ctx, js, stream.Layout{Source: source}, log)
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, after time.Duration) {
		log.Warn("provisioning failed; it is tried again", zap.Error(err), zap.Duration("again_in", after))
	}))
	if err != nil && ctx.Err() == nil {
		log.Error("provisioning failed", zap.Error(err))
	}
}
