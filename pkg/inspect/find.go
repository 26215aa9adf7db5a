package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
)

// A Story is what a source's stream and the claims of its workers know of one webhook-id.
type Story struct {
	WebhookID string `json:"webhook_id"`
	// Stored are the messages with the id, oldest first: the event, its redrives, and a message in the quarantine. It is empty
	// when they have expired and only claims are left.
	Stored []Event `json:"stored"`
	// Arrival says how the event came. It is nil when the event itself has expired.
	Arrival *Arrival `json:"arrival,omitempty"`
	// Handlings say what each worker did, sorted by worker and redrive.
	Handlings []Handling `json:"workers"`
}

// HandlingState says what became of an event in one worker. Those of claims.State are the others.
type HandlingState string

const (
	NotDelivered HandlingState = "not delivered" // the worker's consumer has not come to the event yet
	NotTaken     HandlingState = "not taken"     // the worker takes no events of the type, or began after it
	Settled      HandlingState = "settled"       // acknowledged; its claim has expired, or is not in NATS
	Unclaimed    HandlingState = "unclaimed"     // delivered or about to be, without a claim in NATS
)

// A Handling is what became of an event, or of one redrive of it, in one worker.
type Handling struct {
	Worker  string         `json:"worker"`
	Redrive string         `json:"redrive,omitempty"`
	State   HandlingState  `json:"state"`
	Claim   *claims.Record `json:"claim,omitempty"` // nil without a claim in NATS
}

// ErrNotFound means that neither a claim nor a stored message has the id.
var ErrNotFound = errors.New("no stored message and no claim has this id")

// Find returns what is known of a webhook-id. The claims of workers say where the event is stored; known are sequences of messages
// with the id that FindEvents has found, which need no claim; those that are 0 do not count. The error wraps ErrNotFound when there is neither a claim nor a stored
// message. It needs the permissions of stream.Read on the source's stream and on the buckets of claims.
func Find(ctx context.Context, js jetstream.JetStream, s stream.Source, id string, known ...uint64) (Story, error) {
	workers, err := stream.Workers(ctx, js, s)
	if err != nil {
		return Story{}, err
	}
	f := finder{js: js, source: s, workers: workers, Story: Story{WebhookID: id}, claims: map[claimKey]claims.Record{}}
	if err := f.readClaims(ctx, ""); err != nil {
		return Story{}, err
	}
	if len(f.claims) == 0 && len(known) == 0 {
		return Story{}, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	if err := f.readStored(ctx, known); err != nil {
		return Story{}, err
	}
	if len(f.Stored) == 0 && len(f.claims) == 0 {
		return Story{}, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	f.handlings()
	return f.Story, nil
}

// claimKey names the claim of a worker on an event, or on a redrive of it.
type claimKey struct{ worker, redrive string }

type finder struct {
	js      jetstream.JetStream
	source  stream.Source
	workers []*jetstream.ConsumerInfo
	claims  map[claimKey]claims.Record
	Story
}

// readClaims reads the claim of each worker on the event or on a redrive. A worker without a bucket keeps its claims elsewhere.
func (f *finder) readClaims(ctx context.Context, redrive string) error {
	key := claims.Key{WebhookID: f.WebhookID, Redrive: redrive}.String()
	for _, w := range f.workers {
		bucket := f.source.ClaimsBucket(w.Name)
		err := stream.Last(ctx, f.js, bucketStream(bucket), []string{"$KV." + bucket + "." + key}, func(m *jetstream.RawStreamMsg) error {
			if m.Header.Get("KV-Operation") != "" { // deleted by hand
				return nil
			}
			var r claims.Record
			if err := json.Unmarshal(m.Data, &r); err != nil {
				return fmt.Errorf("the claim cannot be read: a newer version of the worker may have written it: %w", err)
			}
			f.claims[claimKey{w.Name, redrive}] = r
			return nil
		})
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("claims of %s: %w", w.Name, err)
		}
	}
	return nil
}

// readStored reads the messages with the id, and the claims on those that are redrives.
func (f *finder) readStored(ctx context.Context, sequences []uint64) error {
	for _, r := range f.claims {
		sequences = append(sequences, r.Sequence)
	}
	slices.Sort(sequences)
	sequences = slices.DeleteFunc(slices.Compact(sequences), func(n uint64) bool { return n == 0 })
	name := f.source.Stream()
	err := stream.GetAll(ctx, f.js, name, sequences, func(m *jetstream.RawStreamMsg) bool {
		f.add(m)
		return true
	})
	if err != nil {
		return err
	}
	if len(f.Stored) == 0 {
		return nil // the event has expired, and its redrives were given before
	}
	// Its redrives come after it, and have its type.
	o := stream.ReadOptions{After: f.Stored[0].Sequence, Filters: []string{f.source.RedriveSubject("*", f.Stored[0].Type)}}
	if _, err := stream.Read(ctx, f.js, name, o, func(m *jetstream.RawStreamMsg) error { f.add(m); return nil }); err != nil {
		return err
	}
	for _, e := range f.Stored {
		if e.Redrive != "" {
			if err := f.readClaims(ctx, e.Redrive); err != nil {
				return err
			}
		}
	}
	return nil
}

// add keeps a message once if it has the id: a place in a stream that was made again is another message's.
func (f *finder) add(m *jetstream.RawStreamMsg) {
	e := NewEvent(f.source, m)
	again := func(of Event) bool { return of.Sequence == e.Sequence }
	if e.WebhookID == f.WebhookID && !slices.ContainsFunc(f.Stored, again) {
		f.Stored = append(f.Stored, e)
		if e.Redrive == "" && f.Arrival == nil {
			a := arrivalOf(f.source, m)
			f.Arrival = &a
		}
	}
}

// handlings sets what each worker did with each stored message, and with those that only claims know.
func (f *finder) handlings() {
	for _, w := range f.workers {
		known := map[string]bool{}
		for _, e := range f.Stored {
			another := e.Redrive != "" && !stream.Takes(w.Config, e.Subject) // worker's redrive
			if e.Reason == "" && !another && !known[e.Redrive] {
				known[e.Redrive] = true
				f.Handlings = append(f.Handlings, f.handling(w, e))
			}
		}
		for k, r := range f.claims {
			if k.worker == w.Name && !known[k.redrive] {
				f.Handlings = append(f.Handlings, Handling{Worker: w.Name, Redrive: k.redrive, State: HandlingState(r.State), Claim: &r})
			}
		}
	}
	slices.SortFunc(f.Handlings, func(a, b Handling) int {
		return strings.Compare(a.Worker+"\x00"+a.Redrive, b.Worker+"\x00"+b.Redrive)
	})
}

func (f *finder) handling(w *jetstream.ConsumerInfo, e Event) Handling {
	r, claimed := f.claims[claimKey{w.Name, e.Redrive}]
	return handlingOf(w, e, r, claimed)
}

// handlingOf is what became of a message in the worker of a consumer, which has a claim on it or has not.
func handlingOf(w *jetstream.ConsumerInfo, e Event, r claims.Record, claimed bool) Handling {
	h := Handling{Worker: w.Name, Redrive: e.Redrive}
	switch {
	case claimed:
		h.State, h.Claim = HandlingState(r.State), &r
	case !stream.Takes(w.Config, e.Subject), beganAfter(w, e):
		h.State = NotTaken
	case w.AckFloor.Stream >= e.Sequence:
		h.State = Settled
	case w.Delivered.Stream < e.Sequence:
		h.State = NotDelivered
	default:
		h.State = Unclaimed
	}
	return h
}

// beganAfter reports whether a consumer begins behind a message.
func beganAfter(w *jetstream.ConsumerInfo, e Event) bool {
	switch c := w.Config; c.DeliverPolicy {
	case jetstream.DeliverNewPolicy:
		return w.Created.After(e.Time)
	case jetstream.DeliverByStartTimePolicy:
		return c.OptStartTime != nil && c.OptStartTime.After(e.Time)
	}
	return false
}
