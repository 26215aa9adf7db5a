package operator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/nats-io/nuid"
	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// RedriveOptions configure a redrive.
type RedriveOptions struct {
	// ID names the redrive. Within one redrive nothing is given twice, so that a redrive that was interrupted goes on
	// when it is run again under its ID.
	ID string
	// Rate is the number of events given in a second at most; it must be positive.
	Rate float64
	// Progress is called after each event; it may be nil.
	Progress func(done, total int)
}

var redriveIDPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Validate returns an error for an ID that is not [A-Za-z0-9_-]{1,64} and for a rate that is not positive.
func (r RedriveOptions) Validate() error {
	if r.Rate <= 0 {
		return fmt.Errorf("rate must be greater than 0 (got %v)", r.Rate)
	}
	return ValidateRedriveID(r.ID)
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
	Before  int    `json:"given_before"`       // given by an earlier run of the same redrive
	LeftOut int    `json:"left_out,omitempty"` // dead letters that are not open
	DryRun  bool   `json:"dry_run,omitempty"`  // set by the caller
}

// Redrive gives every message of a selection to its worker again, under a redrive ID that the worker's claims do not
// know, so that its handler runs although the event is done or dead. An event that is selected more than once, as one with
// two dead letters, is given once. What is left out is named in the error: messages that have expired since they were
// selected, and those with the webhook-id of another event. When ctx ends, Redrive finishes the message it is at and returns.
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
	log := &givenLog{operator: o, entry: e}
	err := o.redriveAll(ctx, s, opts, log, &r)
	e.Step, e.Given, e.Before, e.Letters = StepEnd, r.Given, r.Before, joinNumbers(log.numbers)
	if err != nil {
		e.Error = err.Error()
	}
	return r, errors.Join(err, o.Record(ctx, e))
}

// redriveAll redrives, counts in r, and notes in log which dead letters were given.
func (o *Operator) redriveAll(ctx context.Context, s *Selection, opts RedriveOptions, log *givenLog, r *RedriveResult) error {
	limit := rate.NewLimiter(rate.Limit(opts.Rate), 1)
	left := leftOut{noun: s.noun}
	given := map[string]sentBody{} // by worker and webhook-id
	for i, n := range s.numbers {
		if err := limit.Wait(ctx); err != nil {
			return errors.Join(fmt.Errorf("stopped before %s %d: %w", s.noun, n, err), left.err())
		}
		letter, err := s.read(ctx, n)
		switch {
		case errors.Is(err, errExpired):
			left.add(n, "it has expired since it was chosen")
			continue
		case err != nil:
			return errors.Join(err, left.err())
		}
		receipt, err := o.redrive(ctx, opts.ID, letter)
		if err != nil {
			return errors.Join(fmt.Errorf("%s %d: %w", s.noun, n, err), left.err())
		}
		key, sum := letter.Worker+":"+letter.WebhookID, sha256.Sum256(letter.Body)
		first, known := given[key]
		switch {
		case known && first.sum != sum && !letter.NoBody:
			left.add(n, fmt.Sprintf("it has the webhook-id and worker of %s %d, and another body: give it alone, under another redrive ID", s.noun, first.number))
		case receipt.Duplicate:
			r.Before++
		default:
			r.Given++
		}
		if s.letters && (!known || first.sum == sum || letter.NoBody) {
			if err := log.add(ctx, n); err != nil {
				return errors.Join(err, left.err())
			}
		}
		if !known && !letter.NoBody {
			given[key] = sentBody{n, sum}
		}
		if opts.Progress != nil {
			opts.Progress(i+1, len(s.numbers))
		}
	}
	return left.err()
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

// redrive gives one letter again. The end of ctx does not cut it off, so that its outcome is known and counted.
func (o *Operator) redrive(ctx context.Context, id string, letter deadletter.Letter) (stream.Receipt, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.timeout)
	defer cancel()
	return deadletter.Redriver{JS: o.js, Publisher: o.publisher, Source: o.source}.Redrive(ctx, id, letter)
}
