// Package claims remembers the events of one worker by webhook-id and redrive: whether an event runs, waits, is done or dead,
// and how many attempts it had. A Store keeps two processes from running the same event. KV keeps the claims in a JetStream
// bucket, package pgclaims keeps them in PostgreSQL.
package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/stream"
)

// MaxPause is the longest pause between two attempts. No claim expires before its event is tried again.
const MaxPause = 7 * 24 * time.Hour

// Key identifies an event of a worker, or one redrive of it by an operator. A handler succeeds at most once for a key.
type Key struct{ WebhookID, Redrive string }

// State is the state of a claim.
type State string

// The states of a claim. Done and Dead are final.
const (
	Running State = "running" // an attempt runs under a lease
	Waiting State = "waiting" // the next attempt is due at Next, on the worker's own consumer
	Parked  State = "parked"  // the next attempt is due at Next, for the copy on the parked consumer
	Burying State = "burying" // given up: the dead letter is being stored, and no further attempt runs
	Done    State = "done"    // the handler succeeded
	Dead    State = "dead"    // the dead letter is stored
)

// Record is the content of a claim.
type Record struct {
	State State `json:"state"`
	// Source is the source of the event, in a Store that holds the claims of several.
	Source stream.Source `json:"source,omitempty"`
	// Sequence is the event's place in the source's stream.
	Sequence uint64 `json:"seq"`
	// Attempts counts the attempts that began, without those that were refunded.
	Attempts int `json:"attempts"`
	// Pauses counts the attempts in a row that were not counted because they ended with Unavailable.
	Pauses int `json:"pauses,omitempty"`
	// Owner identifies the Take that the record belongs to. It is unique for every Take.
	Owner string `json:"owner,omitempty"`
	// LeaseUntil is the end of the lease of a running claim. Another process may take it over ClockSkew later.
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// Next is when the next attempt of a waiting or parked claim is due.
	Next time.Time `json:"next,omitzero"`
	// Written is when the record was written, by the clock of its writer, in a Store that compares it with the time of the
	// server. It is zero in other stores and in final records.
	Written time.Time `json:"written,omitzero"`
	// First and Last are when the first and the latest attempt began.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Cause says why the event was given up; empty if it was not.
	Cause string `json:"cause,omitempty"`
	// FirstError and LastError are the errors of the first and of the latest failed attempt, one line each.
	FirstError string `json:"first_error,omitempty"`
	LastError  string `json:"last_error,omitempty"`
}

// ClockSkew is the time after the end of a lease at which another process may take the claim over, because clocks differ.
const ClockSkew = 5 * time.Second

// NeverEnded is the error of an attempt that had not ended when its lease was over.
const NeverEnded = "the last attempt never came to an end: its process died or lost its lease"

// slack is how long before Next an attempt may begin: the server's delay and the local clock differ.
const slack = 100 * time.Millisecond

// TakeRequest describes the attempt that a claim is taken for.
type TakeRequest struct {
	// Owner is unique, so that a caller that missed the answer to a write recognises its own record.
	Owner string
	// Source is that of the event. A Store that holds the claims of several sources keeps it in the record.
	Source stream.Source
	// Sequence is the event's place in the source's stream.
	Sequence uint64
	// Lease is how long the claim is held if it is not renewed.
	Lease time.Duration
	// Parked says that the claim is taken for the parked copy and not for the event itself.
	Parked bool
}

// A Claim is a record that is held. Take returns it; the caller changes the record and passes the claim to Save.
type Claim struct {
	Key    Key
	Record Record
	// Revision is the revision of the record that was read or written last. Save succeeds only if it is still the newest.
	// Its meaning is the implementation's.
	Revision uint64
	// Session is a value of the implementation, from Take to the last Save. Most implementations leave it nil.
	Session any
}

// Store keeps the claims of one worker. It is safe for concurrent use. An implementation must pass claimstest.Run.
type Store interface {
	// Take begins an attempt: when it returns, the record is Running (or still Burying), owned, leased and durable. At most
	// one caller holds a claim at a time. Take returns *BusyError when another process holds the claim or its next attempt
	// is not due, and ErrSettled when nothing is left to do. After any other error the caller must not run anything,
	// because it is not known whether the claim is held. After ErrUnanswered, a Take with the same Owner goes on with the
	// same attempt if the claim is still held under it, also when its lease is over.
	Take(ctx context.Context, key Key, t TakeRequest) (Claim, error)
	// Save durably writes the record of a claim that is still held, and returns the claim to save next. It returns ErrLost
	// when another process has taken the claim over. A Binder may also return ErrNotCommitted.
	Save(ctx context.Context, c Claim) (Claim, error)
	// Get returns the current record, for audits, and ErrNoClaim when there is no record.
	Get(ctx context.Context, key Key) (Record, error)
}

// A Binder is a Store whose claims can be part of a handler's own transaction. Bind returns the context that the handler runs
// with. pgclaims.Store is one: a handler gets a transaction from its context, and the effect commits together with done.
type Binder interface {
	Bind(ctx context.Context, c Claim) context.Context
}

// A CapacityChecker is a Store that supports a limited number of handlers. workers.Run calls it before it takes events.
// pgclaims.Store is one.
type CapacityChecker interface {
	// CheckCapacity returns an error that names the cure when the store does not support this number of handlers at once.
	CheckCapacity(handlers int) error
}

// A LossNotifier is a Store that can lose all its claims while a worker runs, and notices it. KV is one.
type LossNotifier interface {
	// NotifyLoss sets the function that is called each time the store notices that it has lost claims that it had
	// acknowledged. The function must not block. NotifyLoss is called before the store is used.
	NotifyLoss(lost func())
}

var (
	// ErrSettled means that a delivery needs only its ack: the event is done, dead or parked.
	ErrSettled = errors.New("the event is settled already")
	// ErrLost means that another process holds the claim: the caller must not settle the event.
	ErrLost = errors.New("the lease was lost to another process")
	// ErrNotCommitted means that a claim that commits with the handler's effect could not be saved as Done: the effect was
	// rolled back, the claim is still held, and the attempt failed.
	ErrNotCommitted = errors.New("the effect did not commit")
	// ErrUnanswered means that a request had no answer: the store may have carried it out.
	ErrUnanswered = errors.New("the claims did not answer")
	// ErrNoClaim means that a worker never began an event, or that its claim has expired.
	ErrNoClaim = errors.New("no claim")
)

// BusyError means that a claim could not be taken before a certain time.
type BusyError struct {
	Until time.Time
	// Running says that another process holds the claim. Otherwise the next attempt is not due.
	Running bool
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("the claim is busy until %s", e.Until.Format(time.RFC3339))
}

// First returns the record of a first attempt.
func (t TakeRequest) First(now time.Time) Record {
	return Record{
		State: Running, Sequence: t.Sequence, Attempts: 1,
		Owner: t.Owner, LeaseUntil: now.Add(t.Lease), First: now, Last: now,
	}
}

// Again returns the record of a Take whose answer was lost, with a whole lease.
func (t TakeRequest) Again(r Record, now time.Time) Record {
	r.LeaseUntil = now.Add(t.Lease)
	return r
}

// Next returns the record of the attempt that follows r, or ErrSettled or *BusyError when none may begin. Every
// implementation of Take calls it and adds the compare-and-set.
func (t TakeRequest) Next(r Record, now time.Time) (Record, error) {
	switch r.State {
	case Done, Dead:
		return r, ErrSettled
	case Parked, Waiting:
		if r.State == Parked && !t.Parked {
			return r, ErrSettled
		}
		if r.Next.Sub(now) > slack {
			return r, &BusyError{Until: r.Next}
		}
	case Running, Burying:
		if free := r.LeaseUntil.Add(ClockSkew); now.Before(free) {
			return r, &BusyError{Until: free, Running: true}
		}
	default:
		return r, fmt.Errorf("the claim of event %d has the unknown state %q, which a newer version of the worker wrote: run that version", r.Sequence, r.State)
	}
	if r.State == Running {
		r.LastError = NeverEnded
		if r.FirstError == "" {
			r.FirstError = NeverEnded
		}
	}
	if r.State != Burying {
		r.State = Running
		r.Attempts++
		r.Last = now
	}
	r.Owner, r.LeaseUntil, r.Next = t.Owner, now.Add(t.Lease), time.Time{}
	if r.First.IsZero() {
		r.First = now
	}
	return r, nil
}
