package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// A Selection is what a redrive gives again. It keeps numbers only, because events may be many and large.
type Selection struct {
	noun    string         // "dead letter" or "event", for errors
	command string         // for the record
	chosen  map[string]any // for the record
	numbers []uint64
	letters bool // the numbers are of dead letters
	inOrder bool // one of the workers takes its events in order
	types   map[string]int
	last    time.Time // when the last of the numbers was stored
	// closed counts the dead letters that were left out, by state.
	closed map[LetterState]int
	// read calls each with the numbers and the letters of the selection, in its order, without the messages that have expired, until
	// each reports that it wants no more.
	read func(ctx context.Context, each func(number uint64, l deadletter.Letter) (more bool)) error
}

// maxTypes bounds how many types Types tells apart.
const maxTypes = 1000

// add adds a message.
func (s *Selection) add(number uint64, typ string, stored time.Time) {
	s.numbers = append(s.numbers, number)
	if stored.After(s.last) {
		s.last = stored
	}
	if s.types == nil {
		s.types = map[string]int{}
	}
	if _, known := s.types[typ]; known || len(s.types) < maxTypes {
		s.types[typ]++
	}
}

// full reports whether the selection has as many messages as a limit allows; 0 is no limit.
func (s *Selection) full(limit int) bool { return limit > 0 && len(s.numbers) >= limit }

// errEnough ends a selection that is full.
var errEnough = errors.New("enough")

// Types returns how many messages of each event type are selected.
func (s *Selection) Types() map[string]int { return s.types }

// Until is the end of the selection: a filter with it selects nothing that was stored later. It is zero for an empty selection.
func (s *Selection) Until() time.Time {
	if s.last.IsZero() {
		return s.last
	}
	return s.last.Add(time.Nanosecond)
}

// Numbers returns the numbers of the messages, in the order in which they are given: of dead letters in their archive, and of events
// in the source's stream.
func (s *Selection) Numbers() []uint64 { return slices.Clone(s.numbers) }

// maxTypesShown is how many types a summary names.
const maxTypesShown = 5

// Summary says how many messages of which types are selected, as "3 events: 2 company.created, 1 company.updated".
func (s *Selection) Summary() string {
	names := slices.SortedFunc(maps.Keys(s.types), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.types[b], s.types[a]), strings.Compare(a, b))
	})
	var shown []string
	for _, name := range names[:min(len(names), maxTypesShown)] {
		shown = append(shown, fmt.Sprintf("%d %s", s.types[name], name))
	}
	if more := len(names) - len(shown); more > 0 {
		shown = append(shown, plural(more, "more type"))
	}
	if shown == nil {
		return plural(s.Len(), s.noun)
	}
	return plural(s.Len(), s.noun) + ": " + strings.Join(shown, ", ")
}

// plural returns a number of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// LeftOutSummary says how many dead letters were left out, and why, as "3 left out (2 done, 1 given)". It is empty when none were.
func (s *Selection) LeftOutSummary() string {
	if s.LeftOut() == 0 {
		return ""
	}
	var why []string
	for _, state := range slices.Sorted(maps.Keys(s.closed)) {
		why = append(why, fmt.Sprintf("%d %s", s.closed[state], state))
	}
	return fmt.Sprintf("%d left out (%s)", s.LeftOut(), strings.Join(why, ", "))
}

// Len returns the number of messages in the selection.
func (s *Selection) Len() int { return len(s.numbers) }

// Closed returns how many dead letters were left out because they are not open, by state. It is nil for events.
func (s *Selection) Closed() map[LetterState]int { return s.closed }

// LeftOut returns the sum of Closed.
func (s *Selection) LeftOut() (n int) {
	for _, of := range s.closed {
		n += of
	}
	return n
}

// LettersOptions choose dead letters: those of Numbers, or all that match Filter. Letters that are not open are left out,
// unless Again is set.
type LettersOptions struct {
	Numbers []uint64 // one that is repeated counts once
	Filter  deadletter.Filter
	// Again chooses letters in every state.
	Again bool
	// Limit bounds how many letters are chosen, the oldest; 0 is no limit.
	Limit int
	// Redrive is the ID of an interrupted redrive: the letters that it has given are chosen too.
	Redrive string
	// Preview is called with each chosen letter; it may be nil.
	Preview func(Letter) error
	// Progress is called while letters are read that a filter chooses, with how many of about how many are done; it may be nil.
	Progress func(done, of uint64)
}

// SelectLetters chooses dead letters, oldest first. It returns deadletter.ErrNotFound when a
// number does not exist, an error when the worker of a letter is not provisioned, and the error of Preview.
func (o *Operator) SelectLetters(ctx context.Context, opts LettersOptions) (*Selection, error) {
	f := opts.Filter
	w, err := o.workers(ctx)
	if err != nil {
		return nil, err
	}
	if f.Worker != "" {
		if err := w.check(f.Worker); err != nil {
			return nil, err
		}
	}
	s := &Selection{
		noun: "dead letter", command: "dead replay", letters: true, closed: map[LetterState]int{},
		chosen: opts.chosen(),
	}
	s.read = func(ctx context.Context, each func(uint64, deadletter.Letter) bool) error {
		return deadletter.GetAll(ctx, o.js, o.source, s.numbers, func(l deadletter.Letter) bool { return each(l.Number, l) })
	}
	each := func(letter Letter) error {
		if s.full(opts.Limit) {
			return errEnough
		}
		if !opts.Again && !letter.toGive(opts.Redrive) {
			s.closed[letter.State]++
			return nil
		}
		if err := w.check(letter.Worker); err != nil {
			return fmt.Errorf("dead letter %d: %w", letter.Number, err)
		}
		s.add(letter.Number, letter.Type, letter.Buried)
		s.inOrder = s.inOrder || w.inOrder(letter.Worker)
		if opts.Preview == nil {
			return nil
		}
		return opts.Preview(letter)
	}
	if len(s.chosen) == 0 {
		s.chosen["all"] = true
	}
	letters, err := o.lettersFor(ctx, opts)
	if err != nil {
		return nil, err
	}
	for _, letter := range letters {
		if err := each(letter); errors.Is(err, errEnough) {
			break
		} else if err != nil {
			return s, err
		}
	}
	return s, nil
}

// lettersFor returns the letters of the numbers, or those that the filter chooses, in every state, oldest first.
func (o *Operator) lettersFor(ctx context.Context, opts LettersOptions) ([]Letter, error) {
	if len(opts.Numbers) > 0 {
		return lettersOf(ctx, o.js, o.source, opts.Numbers)
	}
	b, err := readBook(ctx, o.js, o.source, opts.Filter, opts.Progress)
	if err != nil {
		return nil, err
	}
	var letters []Letter
	for _, l := range b.letters {
		if opts.Filter.Match(l.Letter) {
			letters = append(letters, *l)
		}
	}
	return letters, nil
}

// maxRecorded is how many of the chosen numbers a record has: a record of all could be larger than a message may be. Its count says how
// many there are, and Letters which were given.
const maxRecorded = 1000

func (opts LettersOptions) chosen() map[string]any {
	f := opts.Filter
	chosen := chosenBy(map[string]string{
		"worker": f.Worker, "type": string(f.Type), "company": f.Company, "connection": f.Connection, "cause": f.Cause,
	}, f.IDs, opts.Limit, f.Since, f.Until)
	if len(opts.Numbers) > 0 {
		chosen["numbers"] = opts.Numbers[:min(len(opts.Numbers), maxRecorded)]
	}
	return chosen
}

// EventsOptions choose stored events that a worker takes. A zero field chooses all.
type EventsOptions struct {
	Worker              string   // required
	IDs                 []string // webhook-ids
	Company, Connection string
	Type                codat.Pattern
	// Limit bounds how many events are chosen, the oldest; 0 is no limit.
	Limit int
	// Since and Until bound the time of storage; Until is exclusive.
	Since, Until time.Time
	// Preview is called with each chosen event; it may be nil.
	Preview func(inspect.Event) error
	// Progress is called often with how many of about how many events were read; it may be nil.
	Progress func(done, total uint64)
}

// SelectEvents chooses stored events, oldest first. It returns an error when the worker is not provisioned, when an ID of
// opts.IDs chooses no event, and the error of Preview.
func (o *Operator) SelectEvents(ctx context.Context, opts EventsOptions) (*Selection, error) {
	w, err := o.workers(ctx)
	if err == nil {
		err = w.check(opts.Worker)
	}
	if err != nil {
		return nil, err
	}
	s := &Selection{
		noun: "event", command: "replay", inOrder: w.inOrder(opts.Worker),
		chosen: opts.chosen(),
	}
	s.read = func(ctx context.Context, each func(uint64, deadletter.Letter) bool) error {
		return stream.GetAll(ctx, o.js, o.source.Stream(), s.numbers, func(m *jetstream.RawStreamMsg) bool {
			return each(m.Sequence, letterFor(opts.Worker, o.source, m))
		})
	}
	events := stream.ReadOptions{
		Filters: []string{o.source.EventFilter(cmp.Or(opts.Type, ">"))}, Since: opts.Since, Progress: opts.Progress,
	}
	missing := slices.Clone(opts.IDs)
	_, err = stream.Read(ctx, o.js, o.source.Stream(), events, func(m *jetstream.RawStreamMsg) error {
		e := inspect.NewEvent(o.source, m)
		if !stream.Takes(w.consumers[opts.Worker], m.Subject) || !opts.match(e, m.Time) {
			return nil
		}
		missing = slices.DeleteFunc(missing, func(id string) bool { return id == e.WebhookID })
		if s.full(opts.Limit) {
			return errEnough
		}
		s.add(e.Sequence, e.Type, m.Time)
		if opts.Preview == nil {
			return nil
		}
		return opts.Preview(e)
	})
	if errors.Is(err, errEnough) {
		return s, nil
	}
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("no event has the webhook-id %s: it is not stored, worker %s does not take its type, or another filter excludes it: check the ID and the filters",
			quoted(missing), opts.Worker)
	}
	return s, err
}

// quoted returns a list for an error.
func quoted(all []string) string {
	q := make([]string, len(all))
	for i, one := range all {
		q[i] = strconv.Quote(one)
	}
	return strings.Join(q, ", ")
}

// workers are the workers that are provisioned for a source.
type workers struct {
	source    stream.Source
	consumers map[string]jetstream.ConsumerConfig // by the worker's name
}

func (o *Operator) workers(ctx context.Context) (workers, error) {
	w := workers{o.source, map[string]jetstream.ConsumerConfig{}}
	all, err := stream.Workers(ctx, o.js, o.source)
	for _, c := range all {
		w.consumers[c.Name] = c.Config
	}
	return w, err
}

// known returns an error when the worker is not provisioned.
func (w workers) known(worker string) error {
	if _, ok := w.consumers[worker]; !ok {
		return fmt.Errorf("no worker %q is provisioned on %s, so nothing would be delivered to it: start it or run headgate provision, and try again", worker, w.source.Stream())
	}
	return nil
}

// check returns an error when nothing would deliver a redrive to the worker.
func (w workers) check(worker string) error {
	if err := w.known(worker); err != nil {
		return err
	}
	if c := w.consumers[worker]; !stream.Takes(c, w.source.RedriveFilter(worker)) {
		return fmt.Errorf("the consumer of worker %q does not take %s: run headgate provision, and try again", worker, w.source.RedriveFilter(worker))
	}
	return nil
}

// inOrder reports whether a worker takes its events one by one, in the order in which they are stored.
func (w workers) inOrder(worker string) bool { return w.consumers[worker].MaxAckPending == 1 }

func (opts EventsOptions) match(e inspect.Event, stored time.Time) bool {
	return (len(opts.IDs) == 0 || slices.Contains(opts.IDs, e.WebhookID)) &&
		(opts.Company == "" || opts.Company == e.Company) &&
		(opts.Connection == "" || opts.Connection == e.Connection) &&
		(opts.Since.IsZero() || !stored.Before(opts.Since)) &&
		(opts.Until.IsZero() || stored.Before(opts.Until))
}

func (opts EventsOptions) chosen() map[string]any {
	chosen := chosenBy(map[string]string{
		"worker": opts.Worker, "type": string(opts.Type), "company": opts.Company, "connection": opts.Connection,
	}, opts.IDs, opts.Limit, opts.Since, opts.Until)
	if len(chosen) == 1 { // nothing but the worker
		chosen["all"] = true
	}
	return chosen
}

// chosenBy returns the criteria that are set.
func chosenBy(words map[string]string, ids []string, limit int, since, until time.Time) map[string]any {
	chosen := map[string]any{}
	if len(ids) > 0 {
		chosen["ids"] = ids
	}
	if limit > 0 {
		chosen["limit"] = limit
	}
	for name, value := range words {
		if value != "" {
			chosen[name] = value
		}
	}
	for name, value := range map[string]time.Time{"since": since, "until": until} {
		if !value.IsZero() {
			chosen[name] = value.UTC()
		}
	}
	return chosen
}

// letterFor returns a stored event as a dead letter of a worker.
func letterFor(worker string, s stream.Source, m *jetstream.RawStreamMsg) deadletter.Letter {
	e := s.OpenRaw(m)
	return deadletter.Letter{
		Worker: worker, Type: e.Head.Type, WebhookID: e.ID, Sequence: m.Sequence, Header: m.Header, Body: m.Data,
	}
}
