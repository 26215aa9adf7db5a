package operator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// A book holds dead letters, by event.
type book struct {
	js      jetstream.JetStream
	source  stream.Source
	letters []*Letter // by number
	events  map[eventKey][]*deadEvent
}

// An eventKey identifies an event of a worker. Only with the body is it unique: an early version named events by their
// sequence, and a stream that is made again counts from 1.
type eventKey struct {
	worker, id string
	sequence   uint64
}

func keyOf(l deadletter.Letter) eventKey { return eventKey{l.Worker, l.WebhookID, l.Sequence} }

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

// readBook reads all letters of the worker and the type of f, from f.Since on, and what came of them.
func readBook(ctx context.Context, js jetstream.JetStream, s stream.Source, f deadletter.Filter, progress func(done, of uint64)) (*book, error) {
	b := &book{js: js, source: s, events: map[eventKey][]*deadEvent{}}
	f = deadletter.Filter{Worker: f.Worker, Type: f.Type, Since: f.Since} // a letter replaces an older one that f chooses
	err := f.Read(ctx, js, s, stream.ReadOptions{Since: f.Since, Progress: progress}, func(l deadletter.Letter) error {
		b.add(hashLetter(l))
		return nil
	})
	if err != nil || len(b.letters) == 0 {
		return b, err
	}
	o := stream.ReadOptions{Since: b.since(), Filters: []string{s.RedriveFilter(cmp.Or(f.Worker, "*"))}}
	if err := b.readRedrives(ctx, o); err != nil {
		return b, err
	}
	return b, b.judge(ctx)
}

// judge reads who gave the letters and what came of that. A redrive is stored after its letter, and a claim is written after its
// redrive. Letters, redrives and claims are read in this order: what moves meanwhile looks older than it is, and nothing looks done
// that is not.
func (b *book) judge(ctx context.Context) error {
	if err := b.readRecords(ctx); err != nil {
		return err
	}
	var asked []openGiving
	for _, events := range b.events {
		for _, e := range events {
			asked = append(asked, e.assign()...)
		}
	}
	if err := b.readOutcomes(ctx, asked); err != nil {
		return err
	}
	for _, l := range b.letters {
		l.judge()
	}
	return nil
}

// A hashedLetter is a letter without its headers and with the hash of its body in the place of that.
type hashedLetter struct {
	deadletter.Letter
	sum [sha256.Size]byte
}

func hashLetter(l deadletter.Letter) hashedLetter {
	h := hashedLetter{l, sha256.Sum256(l.Body)}
	h.Header, h.Body = nil, nil
	return h
}

// add adds a letter, whose number is higher than those of the others.
func (b *book) add(l hashedLetter) {
	key := keyOf(l.Letter)
	e := b.event(key, l.sum, l.NoBody)
	if e == nil {
		e = &deadEvent{sum: l.sum, noBody: l.NoBody}
		b.events[key] = append(b.events[key], e)
	}
	letter := &Letter{Letter: l.Letter}
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

// readRedrives reads those of some messages of the source's stream that are redrives of the letters' events.
func (b *book) readRedrives(ctx context.Context, o stream.ReadOptions) error {
	_, err := stream.Read(ctx, b.js, b.source.Stream(), o, func(m *jetstream.RawStreamMsg) error {
		b.addRedrive(m)
		return nil
	})
	return err
}

// addRedrive adds a message if it is a redrive of a letter's event.
func (b *book) addRedrive(m *jetstream.RawStreamMsg) {
	opened := b.source.OpenRaw(m)
	key := eventKey{b.source.WorkerOf(m.Subject), opened.ID, opened.Sequence}
	if len(b.events[key]) == 0 {
		return
	}
	if e := b.event(key, sha256.Sum256(m.Data), false); e != nil {
		g := e.giving(opened.Redrive)
		g.At, g.sequence = m.Time, m.Sequence
	}
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
