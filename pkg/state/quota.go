package state

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// QuotaName is the name of the state of the quota: the bucket is CODAT_quota for the source codat. The worker writes writes
// it. QuotaKey is the key of its only record, because the quota is the client's and not a company's.
const (
	QuotaName = "quota"
	QuotaKey  = "client"
)

// A Quota is what Codat's newest event says of the client's quota of API calls a day. Its zero value means that there was no
// such event.
type Quota struct {
	// Exhausted says that the quota is used up. It is true until an event says that it was renewed, also after Renewal.
	Exhausted bool  `json:"exhausted,omitempty"`
	Daily     int64 `json:"daily,omitempty"`     // calls a day; 0 when the event does not say it
	Remaining int64 `json:"remaining,omitempty"` // calls; 0 when the event does not say it
	// Renewal is when Codat renews the quota: what the event says, and 00:00 UTC after it when it does not.
	Renewal time.Time `json:"renewal,omitzero"`

	Type      string    `json:"type,omitempty"` // of the event
	WebhookID string    `json:"webhook_id,omitempty"`
	Generated time.Time `json:"generated,omitzero"` // zero when the event has no date
	Received  time.Time `json:"received,omitzero"`
	Sequence  uint64    `json:"sequence,omitempty"`
}

// maxQuotaPause is the longest pause after an event: quotas are renewed each day, and clocks differ.
const maxQuotaPause = 25 * time.Hour

// PausedUntil returns until when calls to Codat's API must wait, and the zero time when they need not. It is at most 25 hours
// after the arrival of the event: a renewal after that is wrong.
func (q Quota) PausedUntil(now time.Time) time.Time {
	until := q.Renewal
	if latest := q.Received.Add(maxQuotaPause); !q.Received.IsZero() && until.After(latest) {
		until = latest
	}
	if q.Exhausted && now.Before(until) {
		return until
	}
	return time.Time{}
}

// ReadQuota returns the quota of a source. The error is stream.ErrNotProvisioned when the bucket does not exist, and
// jetstream.ErrKeyNotFound when no event has told of a quota.
func ReadQuota(ctx context.Context, js jetstream.JetStream, s stream.Source) (Quota, error) {
	kv, err := open(ctx, js, s, QuotaName)
	if err != nil {
		return Quota{}, err
	}
	e, err := kv.Get(ctx, QuotaKey)
	if err != nil {
		return Quota{}, err
	}
	return decode[Quota](e)
}
