package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
)

// openGiving is a redrive whose outcome must be read, with the key of its claim.
type openGiving struct {
	*Giving
	worker, claim string
}

// readOutcomes sets the outcomes of redrives from their claims, and where a worker keeps none in NATS, from what its
// consumer has settled.
func (b *book) readOutcomes(ctx context.Context, all []openGiving) error {
	byWorker := map[string][]openGiving{}
	for _, g := range all {
		byWorker[g.worker] = append(byWorker[g.worker], g)
	}
	var consumers []*jetstream.ConsumerInfo
	for worker, open := range byWorker {
		records, ok, err := b.readClaims(ctx, worker, open)
		if err != nil {
			return err
		}
		if !ok && consumers == nil {
			if consumers, err = stream.Workers(ctx, b.js, b.source); err != nil {
				return err
			}
		}
		for _, g := range open {
			switch r, known := records[g.claim]; {
			case known:
				g.Outcome = outcomeOf(r)
			case g.sequence == 0:
				g.Outcome = OutcomeUnknown
			case !ok && settled(consumers, worker, g.sequence):
				g.Outcome = OutcomeSettled
			default:
				g.Outcome = OutcomeWaiting
			}
		}
	}
	return nil
}

// readClaims reads the claims of a worker's redrives, by their keys. It returns false when the worker has no bucket of claims.
func (b *book) readClaims(ctx context.Context, worker string, open []openGiving) (map[string]claims.Record, bool, error) {
	bucket := b.source.ClaimsBucket(worker)
	prefix, name := "$KV."+bucket+".", "KV_"+bucket
	subjects := make([]string, len(open))
	for i, g := range open {
		subjects[i] = prefix + g.claim
	}
	records := make(map[string]claims.Record, len(open))
	err := stream.Last(ctx, b.js, name, subjects, func(m *jetstream.RawStreamMsg) error {
		var r claims.Record
		if m.Header.Get("KV-Operation") != "" || json.Unmarshal(m.Data, &r) != nil {
			return nil // deleted by hand, or of a newer version
		}
		records[strings.TrimPrefix(m.Subject, prefix)] = r
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("claims of %s: %w", worker, err)
	}
	return records, true, nil
}

// outcomeOf returns the outcome that a claim tells.
func outcomeOf(r claims.Record) Outcome {
	switch r.State {
	case claims.Done:
		return OutcomeDone
	case claims.Dead:
		return OutcomeDead
	case claims.Parked:
		return OutcomeParked
	case claims.Running, claims.Burying:
		return OutcomeRunning
	}
	return OutcomeWaiting
}

// settled reports whether a worker's consumer has settled a message of the source's stream and all before it.
func settled(consumers []*jetstream.ConsumerInfo, worker string, sequence uint64) bool {
	for _, c := range consumers {
		if c.Name == worker {
			return c.AckFloor.Stream >= sequence
		}
	}
	return false
}
