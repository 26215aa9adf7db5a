package operator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// A LetterState says whether a dead letter waits for an operator.
type LetterState string

// The states of a dead letter.
const (
	LetterOpen     LetterState = "open"     // it was not given to its worker again
	LetterGiven    LetterState = "given"    // it was given again, and the outcome is not final, or not known
	LetterDone     LetterState = "done"     // it was given again, and the handler succeeded
	LetterReplaced LetterState = "replaced" // the worker gave the event up once more: ReplacedBy is the newer letter
)

// A Letter is a dead letter and what came of it.
type Letter struct {
	deadletter.Letter
	State LetterState `json:"state"`
	// Replaces and ReplacedBy are the numbers of the next older and the next newer letter of the same event and worker; 0
	// when the archive, or what was read of it, has none.
	Replaces   uint64 `json:"replaces,omitempty"`
	ReplacedBy uint64 `json:"replaced_by,omitempty"`
	// Given are the redrives of the event to its worker between this letter and the next, oldest first.
	Given []Giving `json:"given,omitempty"`
}

// A Giving is one redrive of a dead letter's event.
type Giving struct {
	Redrive string    `json:"redrive"`
	At      time.Time `json:"at"`
	// By is the user and the host of the record on the source's operator subject, and Command its command; both are ""
	// when there is no record.
	By      string  `json:"by,omitempty"`
	Command string  `json:"command,omitempty"`
	Outcome Outcome `json:"outcome"`

	sequence uint64 // of the redrive in the source's stream; 0 when it is not stored there any more
}

// An Outcome is what came of a redrive.
type Outcome string

// The outcomes of a redrive.
const (
	OutcomeDone    Outcome = "done"    // the handler succeeded
	OutcomeDead    Outcome = "dead"    // the worker gave the event up again
	OutcomeRunning Outcome = "running" // an attempt runs
	OutcomeWaiting Outcome = "waiting" // the first or the next attempt is to come
	OutcomeParked  Outcome = "parked"  // the next attempt is to come, after a long wait
	OutcomeSettled Outcome = "settled" // done or parked: the worker keeps its claims outside NATS
	OutcomeUnknown Outcome = "unknown" // neither the redrive nor its claim is stored any more
)

// clockSkew is by how much the clocks of the servers and of the operators may differ.
const clockSkew = 5 * time.Second

// A LettersQuery chooses dead letters. The zero value chooses all.
type LettersQuery struct {
	deadletter.Filter
	// Before chooses only letters with a lower number. Zero: all.
	Before uint64
	// Scanning is called before all letters are read at once, because the index of headgate watch does not tell what came of
	// them, with the reason. May be nil.
	Scanning func(reason string)
	// Progress is called while letters are read, with how many of about how many are done. May be nil.
	Progress func(done, of uint64)
}

const (
	firstRange   = 64   // numbers of the archive that are read first
	largestRange = 2048 // numbers that are read at once
)

// Letters calls each with every dead letter that q chooses and that was stored before Letters began, newest first, without
// its headers and its body, until each returns an error, which Letters then returns. It reads the archive in ranges. What came of
// the letters of a range is read from the redrives in the source's stream, the operators' records and the claims; the index of
// headgate watch tells where the redrives and the other letters of their events are. Where no index answers, all letters of the worker
// and the type of q are read at once: the result is the same, but letters that were stored before q.Since are not read then, so that
// Replaces does not name them.
func Letters(ctx context.Context, js jetstream.JetStream, s stream.Source, q LettersQuery, each func(Letter) error) error {
	r := letterReader{js: js, source: s, filter: q.Filter, scanning: q.Scanning, progress: q.Progress}
	after, through, err := q.bounds(ctx, js, s)
	if err != nil {
		return err
	}
	all := through - min(after, through)
	for size := uint64(firstRange); through > after; size = min(2*size, largestRange) {
		from := max(after, through-min(size, through))
		var some []hashedLetter
		err := q.Read(ctx, js, s, stream.ReadOptions{After: from, Through: through}, func(l deadletter.Letter) error {
			some = append(some, hashLetter(l))
			return nil
		})
		if err != nil {
			return err
		}
		letters, err := r.read(ctx, some)
		if err != nil {
			return err
		}
		for _, l := range slices.Backward(letters) {
			if err := each(l); err != nil {
				return err
			}
		}
		if through = from; q.Progress != nil {
			q.Progress(all-(through-after), all)
		}
	}
	return nil
}

// clockStep is by how much a letter may have an earlier time than one before it: the next leader of the archive has another clock.
const clockStep = time.Minute

// bounds returns between which numbers all letters are that q chooses, as far as that is known without reading them.
func (q LettersQuery) bounds(ctx context.Context, js jetstream.JetStream, s stream.Source) (after, through uint64, err error) {
	st, err := js.Stream(ctx, s.DeadStream())
	if err != nil {
		return 0, 0, fmt.Errorf("stream %s: %w", s.DeadStream(), err)
	}
	state := st.CachedInfo().State
	after, through = max(state.FirstSeq, 1)-1, state.LastSeq
	if q.Before != 0 {
		through = min(through, q.Before-1)
	}
	if !q.Since.IsZero() {
		first, err := stream.SequenceAt(ctx, js, s.DeadStream(), q.Since.Add(-clockStep))
		switch {
		case err != nil:
			return 0, 0, err
		case first == 0: // all are older
			return through, through, nil
		}
		after = max(after, first-1)
	}
	if !q.Until.IsZero() {
		next, err := stream.SequenceAt(ctx, js, s.DeadStream(), q.Until.Add(clockStep))
		if err != nil {
			return 0, 0, err
		}
		if next != 0 {
			through = min(through, next-1)
		}
	}
	return after, through, nil
}

// ReadLetter returns the dead letter of a number, with its headers and its body. It returns deadletter.ErrNotFound when the
// archive has no such letter.
func ReadLetter(ctx context.Context, js jetstream.JetStream, s stream.Source, number uint64) (Letter, error) {
	l, err := deadletter.Get(ctx, js, s, number)
	if err != nil {
		return Letter{}, err
	}
	r := letterReader{js: js, source: s, filter: deadletter.Filter{Worker: l.Worker, Type: codat.Pattern(l.Type)}}
	letters, err := r.read(ctx, []hashedLetter{hashLetter(l)})
	if err != nil {
		return Letter{}, err
	}
	read := letters[0]
	read.Letter = l
	return read, nil
}

// lettersOf returns the letters of the numbers, in the order of the archive.
func lettersOf(ctx context.Context, js jetstream.JetStream, s stream.Source, numbers []uint64) ([]Letter, error) {
	numbers = slices.Compact(slices.Sorted(slices.Values(numbers)))
	letters := make([]hashedLetter, 0, len(numbers))
	workers := map[string]bool{}
	var f deadletter.Filter
	err := deadletter.GetAll(ctx, js, s, numbers, func(l deadletter.Letter) bool {
		if l.Number != numbers[len(letters)] {
			return false // the archive does not have that one
		}
		letters = append(letters, hashLetter(l))
		if since := l.Buried.Add(-clockStep); f.Since.IsZero() || since.Before(f.Since) {
			f.Since = since
		}
		f.Worker, workers[l.Worker] = l.Worker, true
		return true
	})
	if err == nil && len(letters) < len(numbers) {
		err = fmt.Errorf("dead letter %d: %w", numbers[len(letters)], deadletter.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if len(workers) > 1 {
		f.Worker = ""
	}
	r := letterReader{js: js, source: s, filter: f}
	var all []Letter
	for some := range slices.Chunk(letters, largestRange) {
		read, err := r.read(ctx, some)
		if err != nil {
			return nil, err
		}
		all = append(all, read...)
	}
	return all, nil
}

// toGive reports whether a redrive gives a letter: an open one, or one that the same redrive has given before.
func (l Letter) toGive(redrive string) bool {
	n := len(l.Given)
	return l.State == LetterOpen || l.State != LetterReplaced && redrive != "" && l.Given[n-1].Redrive == redrive
}
