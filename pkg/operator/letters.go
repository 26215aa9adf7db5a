package operator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
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

// Letters calls each with every dead letter that f chooses and that was stored before Letters began, oldest first, without
// its headers and its body, until each returns an error, which Letters then returns. What came of a letter is read from the
// redrives in the source's stream, the operators' records and the claims: all in batches, none for each letter. Letters that
// were stored before f.Since are not read, so that Replaces does not name them.
func Letters(ctx context.Context, js jetstream.JetStream, s stream.Source, f deadletter.Filter, each func(Letter) error) error {
	b, err := readBook(ctx, js, s, f)
	if err != nil {
		return err
	}
	for _, l := range b.letters {
		if !f.Match(l.Letter) {
			continue
		}
		if err := each(*l); err != nil {
			return err
		}
	}
	return nil
}

// ReadLetter returns the dead letter of a number, with its headers and its body. It returns deadletter.ErrNotFound when the
// archive has no such letter.
func ReadLetter(ctx context.Context, js jetstream.JetStream, s stream.Source, number uint64) (Letter, error) {
	l, err := deadletter.Get(ctx, js, s, number)
	if err != nil {
		return Letter{}, err
	}
	b, err := readBook(ctx, js, s, deadletter.Filter{Worker: l.Worker, Type: codat.Pattern(l.Type)})
	if err != nil {
		return Letter{}, err
	}
	read := Letter{Letter: l, State: LetterOpen} // when it was stored after the reading began
	if i, ok := b.find(number); ok {
		read = *b.letters[i]
		read.Letter = l
	}
	return read, nil
}

// lettersOf returns the letters of the numbers, in their order.
func lettersOf(ctx context.Context, js jetstream.JetStream, s stream.Source, numbers []uint64) ([]Letter, error) {
	letters := make([]Letter, len(numbers))
	workers := map[string]bool{}
	var f deadletter.Filter
	for i, n := range numbers {
		l, err := deadletter.Get(ctx, js, s, n)
		if err != nil {
			return nil, err
		}
		l.Header, l.Body = nil, nil
		letters[i] = Letter{Letter: l, State: LetterOpen} // when it was stored after the reading below began
		if since := l.Buried.Add(-clockSkew); f.Since.IsZero() || since.Before(f.Since) {
			f.Since = since
		}
		f.Worker, workers[l.Worker] = l.Worker, true
	}
	if len(workers) > 1 {
		f.Worker = ""
	}
	b, err := readBook(ctx, js, s, f)
	for i, n := range numbers {
		if at, ok := b.find(n); ok {
			letters[i] = *b.letters[at]
		}
	}
	return letters, err
}

// toGive reports whether a redrive gives a letter: an open one, or one that the same redrive has given before.
func (l Letter) toGive(redrive string) bool {
	n := len(l.Given)
	return l.State == LetterOpen || l.State != LetterReplaced && redrive != "" && l.Given[n-1].Redrive == redrive
}

// A book holds dead letters, by event.
type book struct {
	js      jetstream.JetStream
	source  stream.Source
	filter  deadletter.Filter // without Until and Cause: a newer letter replaces an older one
	letters []*Letter         // by number
	events  map[eventKey][]*deadEvent
}

// An eventKey identifies an event of a worker. Only with the body is it unique: an early version named events by their
// sequence, and a stream that is made again counts from 1.
type eventKey struct {
	worker, id string
	sequence   uint64
}

// A deadEvent is an event with its dead letters of one worker.
type deadEvent struct {
	sum     [sha256.Size]byte // of the body
	noBody  bool
	letters []*Letter // oldest first
	givings map[string]*giving
}

// giving is a redrive on its way into a Letter.
type giving struct {
	Giving
	named uint64 // the number of the newest letter that a record names
}

// readBook reads letters and what came of them. A redrive is stored after its letter, and a claim is written after its
// redrive, so it reads in this order: what moves meanwhile looks older than it is, and nothing looks done that is not.
func readBook(ctx context.Context, js jetstream.JetStream, s stream.Source, f deadletter.Filter) (*book, error) {
	b := &book{js: js, source: s, filter: f, events: map[eventKey][]*deadEvent{}}
	b.filter.Until, b.filter.Cause = time.Time{}, ""
	err := deadletter.List(ctx, js, s, b.filter, func(l deadletter.Letter) error {
		b.add(l)
		return nil
	})
	if err != nil || len(b.letters) == 0 {
		return b, err
	}
	if err := b.readRedrives(ctx); err != nil {
		return b, err
	}
	if err := b.readRecords(ctx); err != nil {
		return b, err
	}
	var asked []openGiving
	for _, events := range b.events {
		for _, e := range events {
			asked = append(asked, e.assign()...)
		}
	}
	if err := b.readOutcomes(ctx, asked); err != nil {
		return b, err
	}
	for _, l := range b.letters {
		l.judge()
	}
	return b, nil
}

// add adds a letter, without what it does not need.
func (b *book) add(l deadletter.Letter) {
	key, sum := eventKey{l.Worker, l.WebhookID, l.Sequence}, sha256.Sum256(l.Body)
	l.Header, l.Body = nil, nil
	e := b.event(key, sum, l.NoBody)
	if e == nil {
		e = &deadEvent{sum: sum, noBody: l.NoBody}
		b.events[key] = append(b.events[key], e)
	}
	letter := &Letter{Letter: l}
	if n := len(e.letters); n > 0 {
		older := e.letters[n-1]
		older.ReplacedBy, letter.Replaces = l.Number, older.Number
	}
	e.letters = append(e.letters, letter)
	b.letters = append(b.letters, letter)
}

// event returns the event with this body, or nil. A letter without a body may be of any.
func (b *book) event(key eventKey, sum [sha256.Size]byte, noBody bool) *deadEvent {
	for _, e := range b.events[key] {
		if e.sum == sum || e.noBody || noBody {
			return e
		}
	}
	return nil
}

// find returns the place of a number among the letters, or where it would be.
func (b *book) find(number uint64) (int, bool) {
	return slices.BinarySearchFunc(b.letters, number, func(l *Letter, n uint64) int { return cmp.Compare(l.Number, n) })
}

// since is when the oldest letter was stored, and a little before.
func (b *book) since() time.Time {
	oldest := b.letters[0].Buried // a server's clock may have been set back since
	for _, l := range b.letters {
		if l.Buried.Before(oldest) {
			oldest = l.Buried
		}
	}
	return oldest.Add(-clockSkew)
}

// giving returns the redrive of an event that has this ID.
func (e *deadEvent) giving(id string) *giving {
	if e.givings == nil {
		e.givings = map[string]*giving{}
	}
	g := e.givings[id]
	if g == nil {
		g = &giving{Giving: Giving{Redrive: id}}
		e.givings[id] = g
	}
	return g
}

// readRedrives reads the redrives of the letters' events from the source's stream, which keeps them as long as events.
func (b *book) readRedrives(ctx context.Context) error {
	o := stream.ReadOptions{Since: b.since(), Filters: []string{b.source.RedriveFilter(cmp.Or(b.filter.Worker, "*"))}}
	_, err := stream.Read(ctx, b.js, b.source.Stream(), o, func(m *jetstream.RawStreamMsg) error {
		opened := b.source.OpenRaw(m)
		key := eventKey{b.source.WorkerOf(m.Subject), opened.ID, opened.Sequence}
		if len(b.events[key]) == 0 {
			return nil
		}
		if e := b.event(key, sha256.Sum256(m.Data), false); e != nil {
			g := e.giving(opened.Redrive)
			g.At, g.sequence = m.Time, m.Sequence
		}
		return nil
	})
	return err
}

// assign gives each redrive to the letter that it was made of, and returns those whose outcome is not known.
func (e *deadEvent) assign() (unknown []openGiving) {
	for _, g := range e.givings {
		last := len(e.letters) - 1
		for i, l := range e.letters {
			if l.Redrive == g.Redrive {
				last, g.Outcome = i-1, OutcomeDead
				break
			}
		}
		for ; last >= 0; last-- {
			if l := e.letters[last]; l.Number == g.named || g.At.After(l.Buried.Add(-clockSkew)) {
				l.Given = append(l.Given, g.Giving)
				break
			}
		}
	}
	for _, l := range e.letters {
		slices.SortFunc(l.Given, func(x, y Giving) int { return x.At.Compare(y.At) })
		for i := range l.Given {
			if l.Given[i].Outcome == "" {
				key := claims.Key{WebhookID: l.WebhookID, Redrive: l.Given[i].Redrive}
				unknown = append(unknown, openGiving{&l.Given[i], l.Worker, key.String()})
			}
		}
	}
	return unknown
}

// judge sets the state of a letter whose redrives have outcomes.
func (l *Letter) judge() {
	last := OutcomeDead
	if n := len(l.Given); n > 0 {
		last = l.Given[n-1].Outcome
	}
	switch {
	case l.ReplacedBy != 0:
		l.State = LetterReplaced
	case last == OutcomeDone:
		l.State = LetterDone
	case last == OutcomeDead: // never given, or the newer letter was removed from the archive
		l.State = LetterOpen
	default:
		l.State = LetterGiven
	}
}
