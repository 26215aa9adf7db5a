package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/stream"
)

const (
	eraseAtOnce = 8  // messages that are erased at once
	eraseRounds = 20 // searches after which an erasure gives up: the company's events go on coming
	// erasePause is the pause before a search that follows on an erasure: a replica that is behind answers with what is gone.
	erasePause = 250 * time.Millisecond
)

// EraseOptions say what is erased.
type EraseOptions struct {
	// Company is the id of the company, as Codat writes it.
	Company string
	// Mentions erases also what belongs to another company and has this company's id in it.
	Mentions bool
	// Rate is the number of messages and records that are erased in a second at most; it must be positive and finite.
	Rate float64
	// Progress is called often, with what is done and about how much there is. It may be nil.
	Progress func(what string, done, total uint64)
}

// Validate returns an error for a company that no event can have, and for a rate that is not positive and finite.
func (o EraseOptions) Validate() error {
	if err := ValidateRate(o.Rate); err != nil {
		return fmt.Errorf("rate %w", err)
	}
	return companyID(o.Company).validate()
}

// ErasedStream counts what an erasure found and did in a stream, or in a bucket.
type ErasedStream struct {
	Name   string `json:"name"`
	Found  int    `json:"found"`
	Erased int    `json:"erased"`
}

// EraseResult says what an erasure found and did.
type EraseResult struct {
	Streams []ErasedStream `json:"streams"`
	Found   int            `json:"found"`
	Erased  int            `json:"erased"`
	// Later counts what came while it ran, among Erased.
	Later int `json:"came_meanwhile"`
	// Verified says that the last search has read everything and found nothing.
	Verified bool `json:"verified"`
	// Mentions is what belongs to another company, has this one's id in it, and was left: as "CODAT 12".
	Mentions []string `json:"mentions,omitempty"`
	// Encoded counts the messages of the quarantine whose bodies are compressed, so that nobody can say whom they name.
	Encoded int `json:"encoded,omitempty"`
	// Behind names the servers that have not erased yet, because they are away or behind.
	Behind []string `json:"behind,omitempty"`
	DryRun bool     `json:"dry_run,omitempty"` // set by the caller
}

// An Erasure removes everything that a source has stored of one company: events, redrives, quarantined messages, parked copies, dead
// letters, operators' records that name it, and records of buckets. Claims stay, because they tell an event that comes again from a new
// one; texts in them lose the company's id. It can be repeated, and goes on where an earlier one ended.
type Erasure struct {
	operator *Operator
	opts     EraseOptions
	company  companyID
	result   EraseResult
	found    []found           // by the last search
	last     map[string]uint64 // the last sequences of the streams when it began
}

// NewErasure searches everything that the source has stored, and returns what is to be erased. It needs the role admin.
func (o *Operator) NewErasure(ctx context.Context, opts EraseOptions) (*Erasure, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	e := &Erasure{operator: o, opts: opts, company: companyID(opts.Company), last: map[string]uint64{}}
	err := e.search(ctx)
	return e, err
}

// Result says what the erasure has found and done so far.
func (e *Erasure) Result() EraseResult {
	r := e.result
	r.Streams = slices.Clone(r.Streams)
	for _, s := range r.Streams {
		r.Found += s.Found
		r.Erased += s.Erased
	}
	return r
}

// Run erases what was found and searches again, until a search finds nothing: the company's events may go on coming. It begins and ends with
// records on the operators' subject, which have the SHA-256 of the company's id in place of it. The end of ctx ends it between two messages.
// The result is valid also with an error.
func (e *Erasure) Run(ctx context.Context) (EraseResult, error) {
	entry := Entry{Command: "erase", Step: StepBegin, Count: e.Result().Found, Chosen: e.chosen()}
	if err := e.operator.Record(ctx, entry); err != nil {
		return e.Result(), err
	}
	err := e.rounds(ctx)
	if err == nil {
		err = e.servers(ctx)
	}
	r := e.Result()
	entry.Step, entry.Count, entry.Given, entry.Chosen = StepEnd, r.Found, r.Erased, e.chosen()
	if err != nil {
		entry.Error = e.company.without(err.Error())
	}
	return r, errors.Join(err, e.operator.Record(ctx, entry))
}

// chosen is what the record says of the choice. It has no name of a company: the record outlives the company's data.
func (e *Erasure) chosen() map[string]any {
	streams := map[string]int{}
	for _, s := range e.result.Streams {
		if s.Found > 0 {
			streams[s.Name] = s.Found
		}
	}
	return map[string]any{"company_sha256": e.company.hash(), "mentions": e.opts.Mentions, "found": streams, "verified": e.result.Verified}
}

// rounds erases and searches until nothing is found.
func (e *Erasure) rounds(ctx context.Context) error {
	for range eraseRounds {
		if len(e.found) > 0 {
			if err := e.erase(ctx); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(erasePause):
			}
		}
		if err := e.search(ctx); err != nil {
			return err
		}
		if len(e.found) == 0 {
			e.result.Verified = true
			return nil
		}
	}
	return fmt.Errorf("the company's data goes on coming: after %d searches there is still some; delete the company at Codat, stop what submits its write plans, and run the command again", eraseRounds)
}

// erase erases what the last search has found, in its order, some at once.
func (e *Erasure) erase(ctx context.Context) error {
	var done atomic.Uint64
	counts := make([]atomic.Int64, len(e.result.Streams))
	later := atomic.Int64{}
	limit := rate.NewLimiter(rate.Limit(e.opts.Rate), max(1, int(e.opts.Rate/100)))
	group, erasing := errgroup.WithContext(ctx)
	group.SetLimit(eraseAtOnce)
	for _, f := range e.found {
		if limit.Wait(erasing) != nil {
			break
		}
		group.Go(func() error {
			gone, err := e.eraseOne(context.WithoutCancel(erasing), f) // a request that is sent is waited for
			if err == nil && !gone {
				counts[f.stream].Add(1)
				if f.message.Sequence > e.last[e.result.Streams[f.stream].Name] {
					later.Add(1)
				}
			}
			e.progress("erased", done.Add(1), uint64(len(e.found)))
			return err
		})
	}
	err := group.Wait()
	for i := range counts {
		e.result.Streams[i].Erased += int(counts[i].Load())
	}
	e.result.Later += int(later.Load())
	return errors.Join(err, ctx.Err())
}

// eraseOne erases one message or record, and reports whether it was gone or has changed since it was found: the next search tells.
func (e *Erasure) eraseOne(ctx context.Context, f found) (gone bool, err error) {
	o, name := e.operator, e.result.Streams[f.stream].Name
	switch {
	case f.rewritten != nil:
		return o.replace(ctx, f)
	case strings.HasPrefix(name, bucketPrefix):
		err = stream.EraseKey(ctx, o.js, name, &f.message)
	default:
		err = stream.EraseMessage(ctx, o.js, name, f.message.Sequence)
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	return false, err
}

// servers notes which servers have not erased yet.
func (e *Erasure) servers(ctx context.Context) error {
	for _, s := range e.result.Streams {
		behind, err := stream.Behind(ctx, e.operator.js, s.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) { // it was removed
			continue
		}
		if err != nil {
			return err
		}
		for _, server := range behind {
			e.result.Behind = append(e.result.Behind, server+" "+s.Name)
		}
	}
	return nil
}

func (e *Erasure) progress(what string, done, total uint64) {
	if e.opts.Progress != nil {
		e.opts.Progress(what, done, total)
	}
}
