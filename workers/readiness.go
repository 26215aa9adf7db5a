package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// refusalTTL is how long the worker is unready after a claim or a dead letter was refused, unless one is stored before.
const refusalTTL = 2 * time.Minute

// refusal is why something that the worker needs was refused, and when.
type refusal struct {
	err error
	at  time.Time
}

// addChecks adds a health check for everything that the worker needs: the connection, both consumers, the claims, the
// states, and room for dead letters.
func (r *runner) addChecks(health *process.Health, js jetstream.JetStream, events, parked jetstream.Consumer) {
	health.Add("broker", func(context.Context) error {
		if !r.nc.IsConnected() {
			return fmt.Errorf("not connected to NATS: %s", r.nc.Status())
		}
		return nil
	})
	health.Add("events", func(ctx context.Context) error {
		if err := r.checkPull(ctx); err != nil {
			return err
		}
		return r.checkEvents(ctx, events)
	})
	health.Add("parked", func(ctx context.Context) error { return checkConsumer(ctx, r.nc, parked) })
	health.Add("claims", r.checkClaims)
	health.Add("handlers", r.checkHandlers)
	health.Add("dead letters", func(context.Context) error {
		if last := r.unburied.Load(); last != nil && r.now().Sub(last.at) < refusalTTL {
			return last.err
		}
		return nil
	})
	for _, name := range r.worker.State {
		health.Add("state "+name, func(ctx context.Context) error {
			_, err := stream.Bucket(ctx, js, r.source.StateBucket(name))
			return err
		})
	}
}

// checkEvents returns an error when the consumer of the events is gone, and when another version of an ordered worker, which is
// not ordered, has provisioned it since.
func (r *runner) checkEvents(ctx context.Context, events jetstream.Consumer) error {
	if err := checkConsumer(ctx, r.nc, events); err != nil {
		return err
	}
	if places := events.CachedInfo().Config.MaxAckPending; r.worker.Ordered && places != 1 {
		return fmt.Errorf("worker %s is ordered, and its consumer delivers up to %d events at once since it was provisioned by a version that is not: stop that version and run headgate provision --allow-loss, with --spec FILE for a worker that is not built in", r.worker.Name, places)
	}
	return nil
}

// checkConsumer returns an error when a consumer or its stream is gone or does not answer.
func checkConsumer(ctx context.Context, nc *nats.Conn, c jetstream.Consumer) error {
	info := c.CachedInfo()
	if _, err := c.Info(ctx); err != nil {
		return deletedError(fmt.Errorf("consumer %s of %s: %w", info.Name, info.Stream, stream.NotConnected(nc, err)))
	}
	return nil
}

// claimsTimeout is less than a health check has, so that the error names the reason.
const claimsTimeout = 1500 * time.Millisecond

// checkClaims returns the error with which a claim was refused lately, if none was taken since, and otherwise reads a claim
// that no event has: the bucket or table must be there to answer.
func (r *runner) checkClaims(ctx context.Context) error {
	if last := r.unclaimed.Load(); last != nil && r.now().Sub(last.at) < refusalTTL {
		return last.err
	}
	ctx, cancel := context.WithTimeout(ctx, claimsTimeout)
	defer cancel()
	_, err := r.claims.Get(ctx, claims.Key{WebhookID: "readiness"})
	if err == nil || errors.Is(err, claims.ErrNoClaim) {
		return nil
	}
	return fmt.Errorf("claims of worker %s cannot be read: %w", r.worker.Name, r.explainClaim(err))
}

// claimFailed records that a claim was refused, and returns why.
func (r *runner) claimFailed(err error) error {
	err = r.explainClaim(err)
	r.unclaimed.Store(&refusal{err, r.now()})
	return err
}

// deletedError adds the cure to an error that says that the consumer or its stream is gone, and returns others as they are.
func deletedError(err error) error {
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: %w: run headgate provision, with --spec FILE for a worker that is not built in: it makes it again so that no event is skipped", err, stream.ErrNotProvisioned)
	}
	return err
}
