package workers

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// State is where a piece of work stands for one worker.
type State string

// The states of a claim. Done and Dead are final.
const (
	Running State = "running" // an attempt runs, until its lease ends
	Waiting State = "waiting" // tried again at Next, on the worker's own consumer
	Parked  State = "parked"  // tried again at Next, by its copy on the parked consumer
	Burying State = "burying" // given up: its dead letter is being written, no attempt runs any more
	Done    State = "done"    // the handler succeeded
	Dead    State = "dead"    // the dead letter is stored
)

// Record is what a claim remembers of a piece of work.
type Record struct {
	State State `json:"state"`
	// Sequence is the event's place in the source's stream.
	Sequence uint64 `json:"seq"`
	// Attempts counts the attempts that began and were not given back.
	Attempts int `json:"attempts"`
	// Pauses counts in a row the times that Unavailable took back an attempt.
	Pauses int `json:"pauses,omitempty"`
	// Owner is who wrote the record last: a word of its own for every Take.
	Owner string `json:"owner,omitempty"`
	// LeaseUntil is when a running claim may be taken over, Grace later.
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// Next is when a waiting or parked one is tried again.
	Next time.Time `json:"next,omitzero"`
	// First and Last are when the first and the newest attempt began.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Cause says why it was given up, when it was.
	Cause string `json:"cause,omitempty"`
	// FirstError and LastError are one line each.
	FirstError string `json:"first_error,omitempty"`
	LastError  string `json:"last_error,omitempty"`
}

// Grace is added to a lease before somebody else takes the claim over: clocks differ.
const Grace = 5 * time.Second

// neverEnded is the error of an attempt that nobody has ended when its lease is over.
const neverEnded = "the last attempt never came to an end: its process died or lost its lease"

// slack is how much before its time a waiting event may be tried: the server's delay and our clock differ.
const slack = 100 * time.Millisecond

// Taking is who takes a claim, and for what.
type Taking struct {
	// Owner is unlike any other Taking's, so that a writer whose answer was lost can know its own record.
	Owner    string
	Sequence uint64
	// Lease is how long the claim is held unless it is renewed.
	Lease time.Duration
	// Parked says that the parked copy takes it, and not the event itself.
	Parked bool
}

// A Claim is a record that was taken: what Take returned, to be changed and given to Save.
type Claim struct {
	Key    Key
	Record Record
	// Revision is the fence: Save succeeds only while nobody else has written since. Only the
	// implementation that gave it understands it.
	Revision uint64
	// Session is what the implementation keeps with the claim from Take to its last Save; nil for most.
	Session any
}

// Claims remembers, for one worker, every piece of work. An implementation passes claimstest.Run.
type Claims interface {
	// Take begins an attempt: the record is Running (or still Burying), owned, leased and durable when it
	// returns. At most one caller holds a claim at a time. It returns *BusyError when somebody else holds
	// it or its time has not come, ErrSettled when nothing is left to do, and any other error when it
	// cannot know; then nothing may be run.
	Take(ctx context.Context, key Key, t Taking) (Claim, error)
	// Save writes the claim's record if it is still held, durably, and returns the claim to save next. The
	// error is ErrLost when somebody else took it over, and a Binder's may be ErrUndone.
	Save(ctx context.Context, c Claim) (Claim, error)
	// Look returns the record as it stands, for audits; ErrNoClaim when there is none.
	Look(ctx context.Context, key Key) (Record, error)
}

// A Binder is a Claims whose claim can be a part of the handler's own work: Bind gives the context that the handler
// runs with. pgclaims is one: the handler finds a transaction in it, and the claim's done commits with the effect.
type Binder interface {
	Bind(ctx context.Context, c Claim) context.Context
}

// A Sized is a Claims on which not any number of handlers can run: Run asks it before it takes events. pgclaims is one.
type Sized interface {
	// Fits returns an error that names the cure when so many handlers at once are too many.
	Fits(handlers int) error
}

var (
	// ErrSettled means that a delivery needs no more than its ack: the work is done, dead or parked.
	ErrSettled = errors.New("settled before")
	// ErrLost means that a claim is held by somebody else now: nothing may be settled by it.
	ErrLost = errors.New("the lease was lost to another process")
	// ErrUndone means that a claim that commits with the handler's effect could not be saved as Done: the effect is
	// undone, the claim is still held, and the attempt failed.
	ErrUndone = errors.New("the effect did not commit")
	// ErrNoClaim means that a worker never began with a piece of work, or has forgotten it.
	ErrNoClaim = errors.New("no claim")
)

// BusyError says when a claim that could not be taken may be free.
type BusyError struct {
	Until time.Time
	// Running says that somebody holds it, and not that its time has not come.
	Running bool
}

func (e *BusyError) Error() string { return fmt.Sprintf("busy until %s", e.Until.Format(time.RFC3339)) }

// Fresh is the record of a first attempt.
func (t Taking) Fresh(now time.Time) Record {
	return Record{
		State: Running, Sequence: t.Sequence, Attempts: 1,
		Owner: t.Owner, LeaseUntil: now.Add(t.Lease), First: now, Last: now,
	}
}

// Over is the record of the attempt that follows r, or why there is none: ErrSettled or *BusyError. Every
// implementation decides by it and adds only the compare-and-set.
func (t Taking) Over(r Record, now time.Time) (Record, error) {
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
		if free := r.LeaseUntil.Add(Grace); now.Before(free) {
			return r, &BusyError{Until: free, Running: true}
		}
	default:
		return r, fmt.Errorf("claim of event %d has the unknown state %q: a newer version of the worker wrote it", r.Sequence, r.State)
	}
	if r.State == Running {
		r.LastError = neverEnded
		if r.FirstError == "" {
			r.FirstError = neverEnded
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
