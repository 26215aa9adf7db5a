package operator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"regexp"
	"time"

	"github.com/nats-io/nuid"
)

// RedriveOptions configure a redrive.
type RedriveOptions struct {
	// ID names the redrive. Within one redrive nothing is given twice, so that a redrive that was interrupted goes on
	// when it is run again under its ID.
	ID string
	// Rate is the number of events given in a second at most; it must be finite, and MinRate or more.
	Rate float64
	// Progress is called after each event; it may be nil.
	Progress func(done, total int)
}

var redriveIDPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// MinRate is the smallest rate of a redrive, in events a second: one event in 1,000 seconds.
const MinRate = 0.001

// Validate returns an error for an ID that is not [A-Za-z0-9_-]{1,64} and for a rate that is not finite or less than MinRate.
func (r RedriveOptions) Validate() error {
	if err := ValidateRate(r.Rate); err != nil {
		return fmt.Errorf("rate %w", err)
	}
	return ValidateRedriveID(r.ID)
}

// ValidateRate returns an error, without a subject, for a number of events a second that is not finite or less than MinRate.
func ValidateRate(rate float64) error {
	if !(rate >= MinRate) || math.IsInf(rate, 0) { // NaN is greater than nothing
		return fmt.Errorf("must be at least %v, one in 1,000 seconds (got %v)", MinRate, rate)
	}
	return nil
}

// ValidateRedriveID returns an error for an ID that is not [A-Za-z0-9_-]{1,64}.
func ValidateRedriveID(id string) error {
	if !redriveIDPattern.MatchString(id) {
		return fmt.Errorf("ID %q must be 1 to 64 letters, digits, _ or -", id)
	}
	return nil
}

// NewRedriveID returns a new ID: the time in UTC, and six random characters.
func NewRedriveID() string {
	id := nuid.Next()
	return time.Now().UTC().Format("20060102-150405-") + id[len(id)-6:]
}

// RedriveResult counts what a redrive did.
type RedriveResult struct {
	Redrive string `json:"redrive"`
	Chosen  int    `json:"chosen"`
	Given   int    `json:"given"`
	Before  int    `json:"given_before"` // given by an earlier run of the same redrive
	// NotGiven counts those of Chosen that the error names: each had its turn and could not be given, and another run under the
	// same ID does not give it either. What an interrupt left over is not among them.
	NotGiven int  `json:"not_given,omitempty"`
	LeftOut  int  `json:"left_out,omitempty"` // dead letters that are not open
	DryRun   bool `json:"dry_run,omitempty"`  // set by the caller
}

// Redrive gives every message of a selection to its worker again, under a redrive ID that the worker's claims do not
// know, so that its handler runs although the event is done or dead. An event that is selected more than once, as one with
// two dead letters, is given once. What is left out is named in the error: messages that have expired since they were
// selected, and those with the webhook-id of another event. When ctx ends, Redrive finishes the messages it is at and returns.
// Up to 100 a second, and for a worker that takes its events in order at any rate, they are stored in the order of the selection. At a
// higher rate some are stored at once.
// The result is valid also with an error. Redrive returns stream.ErrFull while the source's stream is 90 % full.
func (o *Operator) Redrive(ctx context.Context, s *Selection, opts RedriveOptions) (RedriveResult, error) {
	r := RedriveResult{Redrive: opts.ID, Chosen: s.Len(), LeftOut: s.LeftOut()}
	if err := opts.Validate(); err != nil {
		return r, err
	}
	e := Entry{Command: s.command, Step: StepBegin, Redrive: opts.ID, Chosen: s.chosen, Count: r.Chosen}
	if err := o.Record(ctx, e); err != nil {
		return r, err
	}
	run := newRedriveRun(o, s, opts, e)
	err := run.all(ctx)
	r.Given, r.Before, r.NotGiven = run.given, run.before, run.left.count
	e.Step, e.Given, e.Before, e.Letters = StepEnd, r.Given, r.Before, joinNumbers(run.log.numbers)
	if err != nil {
		e.Error = err.Error()
	}
	return r, errors.Join(err, o.Record(ctx, e))
}

// sentBody is the number and the hash of a body that was given.
type sentBody struct {
	number uint64
	sum    [sha256.Size]byte
}

// maxLeftOut is how many messages an error names that were left out.
const maxLeftOut = 10

// leftOut are the messages that a redrive could not give.
type leftOut struct {
	noun  string
	count int
	named []error
}

func (l *leftOut) add(number uint64, why string) {
	l.count++
	if len(l.named) < maxLeftOut {
		l.named = append(l.named, fmt.Errorf("%s %d was not given: %s", l.noun, number, why))
	}
}

func (l *leftOut) err() error {
	if more := l.count - len(l.named); more > 0 {
		return errors.Join(append(l.named, fmt.Errorf("%d more were not given", more))...)
	}
	return errors.Join(l.named...)
}
