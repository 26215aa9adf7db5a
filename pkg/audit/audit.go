// Package audit verifies from outside that every stored event has, for each worker, exactly one state: done, waiting,
// parked or dead. It only reads. On a running system it reports nothing that merely changed while it was read: what
// looks wrong is read a second time, and is an exception only when its claim did not change and it still looks wrong.
package audit

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
)

// defaultSettle is longer than the lag of a replica that answers reads.
const defaultSettle = 2 * time.Second

// An Audit reads one source. JS and Source are required; the other fields have defaults.
type Audit struct {
	JS     jetstream.JetStream
	Source stream.Source
	// Workers are the workers to audit; all provisioned ones if empty.
	Workers []string
	// ExternalClaims are the claims of workers that do not keep them in a KV bucket, by the worker's name.
	ExternalClaims map[string]Claims
	// Since leaves out what was stored before.
	Since time.Time
	// Expect is compared with what is found; nil for no comparison.
	Expect *Expectation
	// Verify is called with every stored message and returns an error when the signature does not verify. It may be nil.
	Verify func(h nats.Header, body []byte) error
	// Progress is called often with how many of about how many messages were read; it may be nil.
	Progress func(what string, done, total uint64)
	// Settle is the pause before the second read of what looks wrong; 2 s if zero.
	Settle time.Duration
}

// Claims are the claims of one worker, for example pgclaims.Claims.
type Claims interface {
	// All calls each with every claim: its claims.Key.String, its revision, which increases with every write, and its
	// record, whose First is not after the time at which the record was written.
	All(ctx context.Context, each func(key string, revision uint64, r claims.Record) error) error
}

// A Report is the result of an audit.
type Report struct {
	// Stored counts the events, without redrives.
	Stored      int       `json:"stored"`
	Quarantined []Message `json:"quarantined,omitempty"`
	Workers     []Worker  `json:"workers"`
	// Copies says from which servers the stream was read.
	Copies Scrubbed `json:"copies"`
	// Exceptions are sorted by worker and sequence.
	Exceptions []Exception `json:"exceptions,omitempty"`
}

// A Message is in the quarantine.
type Message struct {
	Sequence  uint64    `json:"sequence"`
	WebhookID string    `json:"webhook_id"`
	Stored    time.Time `json:"stored"`
	Reason    string    `json:"reason"`
}

// A Worker is the result for one worker. Its numbers count the events that belong to the worker; an event with redrives
// counts once.
type Worker struct {
	Name       string `json:"worker"`
	Events     int    `json:"events"`
	Done       int    `json:"done"`
	Waiting    int    `json:"waiting"`
	Parked     int    `json:"parked"`
	Dead       int    `json:"dead"`
	ToCome     int    `json:"to_come"`
	Exceptions int    `json:"exceptions"`
	// Retries are the waiting and parked events that had an attempt.
	Retries []Retry `json:"-"`
}

// A Retry is an event that is tried again.
type Retry struct {
	Worker    string    `json:"worker"`
	State     State     `json:"state"`
	Sequence  uint64    `json:"sequence"`
	Type      string    `json:"type"`
	WebhookID string    `json:"webhook_id"`
	Redrive   string    `json:"redrive,omitempty"`
	Attempts  int       `json:"attempts"`
	Next      time.Time `json:"next,omitzero"` // zero while an attempt runs
}

// An Exception is an event that breaks the promise, or another finding that an operator must look at.
type Exception struct {
	Kind      Kind   `json:"exception"`
	Worker    string `json:"worker,omitempty"`
	Stream    string `json:"stream,omitempty"` // of an unreadable sequence or copy
	Server    string `json:"server,omitempty"` // of an unreadable sequence or copy
	Sequence  uint64 `json:"sequence,omitempty"`
	Type      string `json:"type,omitempty"`
	WebhookID string `json:"webhook_id,omitempty"`
	Redrive   string `json:"redrive,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
	// Detail says what is wrong, and the cure.
	Detail string `json:"detail"`
}

// Run audits. An error means that the audit could not be made; exceptions are in the report.
func (a Audit) Run(ctx context.Context) (Report, error) {
	a.Settle = cmp.Or(a.Settle, defaultSettle)
	if a.Progress == nil {
		a.Progress = func(string, uint64, uint64) {}
	}
	began := time.Now()
	names, missing, err := a.findWorkers(ctx)
	if err != nil {
		return Report{}, err
	}
	log := &eventLog{index: map[string]uint32{}, redrives: map[string][]redriven{}, stray: map[uint64]string{}}
	if err := a.readEvents(ctx, log); err != nil {
		return Report{}, err
	}
	copies := Scrub{JS: a.JS, Stream: a.Source.Stream(), From: log.first, Settle: a.Settle}
	copies.Progress = func(done, total uint64) { a.Progress("copies", done, total) }
	scrubbed, err := copies.Run(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := a.readElsewhere(ctx, log, scrubbed.elsewhere); err != nil {
		return Report{}, err
	}
	snapshots, err := a.snapshots(ctx, log, names)
	if err != nil {
		return Report{}, err
	}
	r := Report{Stored: len(log.events), Quarantined: log.quarantined, Exceptions: missing, Copies: scrubbed}
	r.Copies.Exceptions = nil // they are the report's
	for _, s := range snapshots {
		s.Exceptions = len(s.found)
		r.Workers = append(r.Workers, s.Worker)
		for _, f := range s.found {
			r.Exceptions = append(r.Exceptions, f.Exception)
		}
	}
	r.Exceptions = append(r.Exceptions, scrubbed.Exceptions...)
	r.Exceptions = append(r.Exceptions, log.unverified...)
	r.Exceptions = append(r.Exceptions, a.Expect.compareStored(log, began)...)
	for i := range r.Exceptions {
		if e := &r.Exceptions[i]; e.Detail == "" {
			e.Detail = describe(e.Kind, e.Worker)
		}
	}
	slices.SortStableFunc(r.Exceptions, func(x, y Exception) int {
		return cmp.Or(cmp.Compare(x.Worker, y.Worker), cmp.Compare(x.Sequence, y.Sequence), cmp.Compare(x.WebhookID, y.WebhookID))
	})
	return r, nil
}

// snapshots reads every worker, and those that look suspicious a second time.
func (a *Audit) snapshots(ctx context.Context, log *eventLog, names []string) ([]snapshot, error) {
	all := make([]snapshot, len(names))
	again := false
	for i, name := range names {
		var err error
		if all[i], err = a.snapshot(ctx, log, name); err != nil {
			return nil, err
		}
		again = again || all[i].suspicious()
	}
	if !again {
		return all, nil
	}
	if err := a.settle(ctx); err != nil {
		return nil, err
	}
	for i, first := range all {
		if !first.suspicious() {
			continue
		}
		second, err := a.snapshot(ctx, log, names[i])
		if err != nil {
			return nil, err
		}
		second.reconfirm(first)
		all[i] = second
	}
	return all, nil
}

// settle waits for the pause before a second read.
func (a *Audit) settle(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.Settle):
		return nil
	}
}
