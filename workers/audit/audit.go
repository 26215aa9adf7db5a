// Package audit proves from the outside that every stored event ends, for each worker, in exactly one place: done,
// waiting, or dead-lettered. It only reads, and on a system at work it reports nothing that merely moved while it was
// read: what looks wrong is looked at again, and is an exception only when it has not moved and still looks wrong.
package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

const (
	// defaultMoment is longer than a replica that answers reads may lag.
	defaultMoment = 2 * time.Second
	// slack is how much the clock that made a consumer and the one that stored an event may differ.
	slack = 5 * time.Second
)

// An Audit looks at one source. Set JS and Source; the rest has defaults.
type Audit struct {
	JS     jetstream.JetStream
	Source stream.Source
	// Workers are those that are audited; all that are provisioned if empty.
	Workers []string
	// Elsewhere are the claims of workers that keep them in no KV bucket, by the worker's name.
	Elsewhere map[string]Claims
	// Since leaves out what was stored before.
	Since time.Time
	// Expect is compared with what is found; nil for nothing.
	Expect *Expectation
	// Prove, when it is set, is given every stored message and says whether its signature proves it. Bodies are read
	// only for it.
	Prove func(h nats.Header, body []byte) error
	// Progress hears how much of what has been read, often. It may be nil.
	Progress func(what string, done, of uint64)
	// Moment is the time before what looks wrong is looked at again; 2 s if zero.
	Moment time.Duration
}

// Claims are those of one worker: pgclaims.Claims, for example.
type Claims interface {
	// All calls each with every claim: its workers.Key.String, its revision, which changes whenever it is written and
	// is greater then, and its record.
	All(ctx context.Context, each func(key string, revision uint64, r workers.Record) error) error
}

// A Report is what an audit found.
type Report struct {
	// Stored counts the events, without what was given to workers again.
	Stored      int       `json:"stored"`
	Quarantined []Message `json:"quarantined,omitempty"`
	Workers     []Worker  `json:"workers"`
	// Exceptions are what breaks the promise, by worker and sequence.
	Exceptions []Exception `json:"exceptions,omitempty"`
}

// A Message is in the quarantine.
type Message struct {
	Sequence  uint64    `json:"sequence"`
	WebhookID string    `json:"webhook_id"`
	Stored    time.Time `json:"stored"`
	Reason    string    `json:"reason"`
}

// A Worker is what was found of one worker. Its numbers count the events that belong to it, those that were given to it
// again once.
type Worker struct {
	Name       string `json:"worker"`
	Events     int    `json:"events"`
	Done       int    `json:"done"`
	Waiting    int    `json:"waiting"`
	Parked     int    `json:"parked"`
	Dead       int    `json:"dead"`
	ToCome     int    `json:"to_come"`
	Exceptions int    `json:"exceptions"`
	// Waits are the waiting and parked ones that an attempt was made of.
	Waits []Wait `json:"-"`
}

// A Wait is an event that is tried again.
type Wait struct {
	Worker    string    `json:"worker"`
	Standing  Standing  `json:"standing"`
	Sequence  uint64    `json:"sequence"`
	Type      string    `json:"type"`
	WebhookID string    `json:"webhook_id"`
	Redrive   string    `json:"redrive,omitempty"`
	Attempts  int       `json:"attempts"`
	Next      time.Time `json:"next,omitzero"` // zero while an attempt runs
}

// An Exception is one thing that is wrong.
type Exception struct {
	Kind      Kind   `json:"exception"`
	Worker    string `json:"worker,omitempty"`
	Sequence  uint64 `json:"sequence,omitempty"`
	Type      string `json:"type,omitempty"`
	WebhookID string `json:"webhook_id,omitempty"`
	Redrive   string `json:"redrive,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
	// Detail says in words what is wrong, and the cure.
	Detail string `json:"detail"`
}

// Run audits. An error means that the audit could not be made; exceptions are no error.
func (a Audit) Run(ctx context.Context) (Report, error) {
	a.Moment = cmp.Or(a.Moment, defaultMoment)
	if a.Progress == nil {
		a.Progress = func(string, uint64, uint64) {}
	}
	began := time.Now()
	names, err := a.names(ctx)
	if err != nil {
		return Report{}, err
	}
	l := &ledger{index: map[string]uint32{}, redrives: map[string][]redriven{}}
	if len(names) == 0 {
		if err := a.extend(ctx, l); err != nil {
			return Report{}, err
		}
	}
	looks := make([]look, len(names))
	again := false
	for i, name := range names {
		if looks[i], err = a.look(ctx, l, name); err != nil {
			return Report{}, err
		}
		again = again || looks[i].doubtful()
	}
	if again {
		select {
		case <-ctx.Done():
			return Report{}, ctx.Err()
		case <-time.After(a.Moment):
		}
	}
	r := Report{Stored: len(l.events), Quarantined: l.quarantined}
	for i, first := range looks {
		last := first
		if first.doubtful() {
			if last, err = a.look(ctx, l, names[i]); err != nil {
				return Report{}, err
			}
			last.confirm(first)
		}
		last.Exceptions = len(last.found)
		r.Workers = append(r.Workers, last.Worker)
		for _, f := range last.found {
			r.Exceptions = append(r.Exceptions, f.Exception)
		}
	}
	r.Exceptions = append(r.Exceptions, l.unproven...)
	r.Exceptions = append(r.Exceptions, a.Expect.stored(l, began)...)
	for i := range r.Exceptions {
		if e := &r.Exceptions[i]; e.Detail == "" {
			e.Detail = explain(e.Kind, e.Worker)
		}
	}
	slices.SortStableFunc(r.Exceptions, func(x, y Exception) int {
		return cmp.Or(cmp.Compare(x.Worker, y.Worker), cmp.Compare(x.Sequence, y.Sequence), cmp.Compare(x.WebhookID, y.WebhookID))
	})
	return r, nil
}

// names are those of the workers that are audited.
func (a *Audit) names(ctx context.Context) ([]string, error) {
	provisioned, err := stream.Workers(ctx, a.JS, a.Source)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, w := range provisioned {
		all = append(all, w.Name)
	}
	if len(a.Workers) == 0 {
		return all, nil
	}
	for _, w := range a.Workers {
		if !slices.Contains(all, w) {
			return nil, fmt.Errorf("no worker %q is provisioned on %s; there are: %s", w, a.Source.Stream(), cmp.Or(strings.Join(all, ", "), "none"))
		}
	}
	names := slices.Clone(a.Workers)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// look is what was seen of one worker at one time.
type look struct {
	Worker
	found []finding
	out   map[string]uint64 // revisions of the claims, by key, of what must be among the consumer's pending acks
	acks  int               // how many these are
}

// finding is an exception that may only have moved.
type finding struct {
	Exception
	key      string // of the claim
	revision uint64 // of the claim, 0 without one
	judged   bool   // the event has no other standing
}

// doubtful reports whether a second look is needed.
func (l look) doubtful() bool { return len(l.found) > 0 || len(l.out) > l.acks }

// confirm keeps of a second look what the first one found too, if its claim was not written in between. What was read at
// different times in one look then held all at once, between the two.
func (l *look) confirm(first look) {
	type same struct {
		kind     Kind
		key      string
		revision uint64
	}
	before := map[same]bool{}
	for _, f := range first.found {
		before[same{f.Kind, f.key, f.revision}] = true
	}
	l.found = slices.DeleteFunc(l.found, func(f finding) bool {
		moved := !before[same{f.Kind, f.key, f.revision}]
		if moved && f.judged {
			l.Waiting++
		}
		return moved
	})

	still := 0
	for key, revision := range l.out {
		if was, ok := first.out[key]; ok && was == revision {
			still++
		}
	}
	if lost := still - l.acks; lost > 0 {
		l.found = append(l.found, finding{Exception: Exception{
			Kind: Acknowledged, Worker: l.Name,
			Detail: fmt.Sprintf("%d delivered events are without an end, and the worker's consumer waits for the acks of %d: %d were acknowledged without an end", still, l.acks, lost),
		}})
	}
}

// look looks at one worker. The order of the questions matters: a claim is written before its message is acknowledged,
// so the consumer is asked before the claims; and a message is stored before its claim is written, so the events are
// read last, and no claim can be of an event that is missed.
func (a *Audit) look(ctx context.Context, l *ledger, name string) (look, error) {
	info, err := a.info(ctx, a.Source.Stream())
	if err != nil {
		return look{}, err
	}
	consumer, err := a.consumer(ctx, name)
	if err != nil {
		return look{}, err
	}
	c, err := a.claims(ctx, name)
	if err != nil {
		return look{}, err
	}
	copies, err := a.copies(ctx, name)
	if err != nil {
		return look{}, err
	}
	letters, err := a.letters(ctx, name)
	if err != nil {
		return look{}, err
	}
	if err := a.extend(ctx, l); err != nil {
		return look{}, err
	}
	v := view{
		ledger: l, consumer: consumer, claims: c, copies: copies, letters: letters, expect: a.Expect.of(name),
		takes: make([]bool, len(l.types)), last: info.State.LastSeq, first: info.State.FirstSeq, maxAge: info.Config.MaxAge,
		look: look{Worker: Worker{Name: name}, out: map[string]uint64{}, acks: consumer.NumAckPending},
	}
	for i, typ := range l.types {
		v.takes[i] = stream.Takes(consumer.Config, a.Source.EventFilter(typ))
	}
	v.judge()
	return v.look, nil
}

func (a *Audit) consumer(ctx context.Context, name string) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := a.JS.Consumer(ctx, a.Source.Stream(), name)
	if err != nil {
		return nil, fmt.Errorf("consumer %s on %s: %w", name, a.Source.Stream(), err)
	}
	return c.CachedInfo(), nil
}

// view is all that is known when one worker is judged.
type view struct {
	look
	ledger   *ledger
	consumer *jetstream.ConsumerInfo
	claims   *claims
	copies   map[string]parked
	letters  map[string]bool
	expect   *effects
	takes    []bool // by type
	maxAge   time.Duration

	// The stream's sequences before the consumer was asked.
	first, last uint64
}

// judge brings every event and every claim to its standing.
func (v *view) judge() {
	p := v.position()
	begun := v.begun()
	newest := map[string]int{} // redrives of the worker, by the event's id
	redrives := v.ledger.redrives[v.Name]
	redone := map[uint64]bool{} // sequences of events that were given again
	for i, r := range redrives {
		newest[r.id] = i
		redone[r.of] = true
		v.see(r.entry, r.redrive)
	}
	for _, e := range v.ledger.events {
		v.see(e, "")
		if _, again := newest[e.id]; !again {
			v.one(e, "", v.takes[e.typ] && (e.sequence >= min(begun, p.next) || v.began(e)), p)
		}
	}
	for i, r := range redrives {
		if newest[r.id] == i {
			v.one(r.entry, r.redrive, true, p)
		}
	}
	v.orphans(redone)
	v.left()
	v.gap(p)
	v.effects()
	if len(v.claims.at) == 0 {
		v.claimless()
	}
}

// see marks the claim of a message that is stored.
func (v *view) see(e entry, redrive string) {
	k := workers.Key{WebhookID: e.id, Redrive: redrive}
	c := v.claims.of(k.String())
	if c == nil {
		return
	}
	c.seen = true
	if c.state == workers.Done && !v.expect.has(k) {
		v.find(NoEffect, e.sequence, v.ledger.types[e.typ], k, c)
	}
}

// position says how far the consumer is. Without a claim, only numbers tell what it will still deliver: that is the
// newest NumPending of what it takes.
func (v *view) position() position {
	c := v.consumer
	p := position{floor: c.AckFloor.Stream, delivered: c.Delivered.Stream, next: v.last + 1}
	if c.NumAckPending == 0 {
		p.floor = p.delivered
	}
	events, redrives := v.ledger.events, v.ledger.redrives[v.Name]
	for left := c.NumPending; left > 0 && len(events)+len(redrives) > 0; {
		var at uint64
		if e, r := len(events), len(redrives); r == 0 || e > 0 && events[e-1].sequence > redrives[r-1].sequence {
			at = events[e-1].sequence
			if !v.takes[events[e-1].typ] {
				at = 0
			}
			events = events[:e-1]
		} else {
			at = redrives[r-1].sequence
			redrives = redrives[:r-1]
		}
		if at == 0 || at > v.last { // not the worker's, or stored after the consumer was asked
			continue
		}
		p.next = at
		left--
	}
	p.next = max(p.next, p.delivered+1)
	return p
}

// began reports whether an event was stored after the worker's consumer had begun.
func (v *view) began(e entry) bool {
	c := v.consumer.Config
	switch c.DeliverPolicy {
	case jetstream.DeliverAllPolicy:
		return true
	case jetstream.DeliverByStartSequencePolicy:
		return e.sequence >= c.OptStartSeq
	case jetstream.DeliverByStartTimePolicy:
		return c.OptStartTime != nil && e.stored >= c.OptStartTime.UnixNano()
	}
	return e.stored > v.consumer.Created.Add(slack).UnixNano()
}

// begun is the sequence of the first event that the worker has a claim of: with it, it had begun, also when its consumer
// was made again later.
func (v *view) begun() uint64 {
	for _, e := range v.ledger.events {
		if v.takes[e.typ] && v.claims.of(workers.Key{WebhookID: e.id}.String()) != nil {
			return e.sequence
		}
	}
	return v.ledger.last + 1
}

// one judges one event, by the newest time that it was given to the worker.
func (v *view) one(e entry, redrive string, its bool, p position) {
	k := workers.Key{WebhookID: e.id, Redrive: redrive}
	key := k.String()
	c := v.claims.of(key)
	x := evidence{its: its, sequence: e.sequence, letter: v.letters[key]}
	_, x.copy = v.copies[key]
	if c != nil {
		x.state = c.state
	} else {
		c = &claim{}
	}
	got := judge(x, p)
	if got.standing == foreign {
		return
	}
	v.Events++
	typ := v.ledger.types[e.typ]
	switch got.standing {
	case Done:
		v.Done++
	case Dead:
		v.Dead++
	case ToCome:
		v.ToCome++
	case Parked:
		v.Parked++
	case Waiting:
		v.Waiting++
	default:
		v.find(got.wrong, e.sequence, typ, k, c)
		v.found[len(v.found)-1].judged = true
	}
	if got.standing == Waiting || got.standing == Parked {
		v.Waits = append(v.Waits, Wait{v.Name, got.standing, e.sequence, typ, e.id, redrive, c.attempts, c.next})
	}
	if got.out {
		v.out[key] = c.revision
	}
}

// left counts the events that the stream has dropped and whose parked copies still wait.
func (v *view) left() {
	for key, m := range v.copies {
		if c := v.claims.of(key); c != nil && !c.seen && unended(c.state) && v.covers(c.sequence) {
			v.Events++
			v.Parked++
			v.Waits = append(v.Waits, Wait{v.Name, Parked, c.sequence, m.typ, m.key.WebhookID, m.key.Redrive, c.attempts, c.next})
		}
	}
}

// covers reports whether an event of this sequence would be in the ledger if the stream had it.
func (v *view) covers(sequence uint64) bool {
	return sequence >= v.ledger.first && sequence <= v.ledger.last
}

// effects finds effects that should not be or whose work is not done.
func (v *view) effects() {
	if v.expect == nil {
		return
	}
	for k, n := range v.expect.count {
		c := v.claims.of(k.String())
		if c == nil {
			c = &claim{}
		}
		if n > 1 {
			v.find(Twice, c.sequence, "", k, c)
		}
		if c.state != workers.Done {
			v.find(NotDone, c.sequence, "", k, c)
		}
	}
}

func (v *view) find(kind Kind, sequence uint64, typ string, k workers.Key, c *claim) {
	v.found = append(v.found, finding{
		Exception: Exception{Kind: kind, Worker: v.Name, Sequence: sequence, Type: typ, WebhookID: k.WebhookID, Redrive: k.Redrive, Attempts: c.attempts},
		key:       k.String(), revision: c.revision,
	})
}

// orphans finds claims without an end whose events the stream has dropped. redone are sequences of events that were
// given again since: these are judged by that.
func (v *view) orphans(redone map[uint64]bool) {
	open := map[uint64]*claim{} // newest claim of an event, of those that have one without an end
	for key, i := range v.claims.at {
		c := &v.claims.all[i]
		if v.orphan(key, c) && !redone[c.sequence] {
			open[c.sequence] = nil
		}
	}
	if len(open) == 0 {
		return
	}
	for _, i := range v.claims.at {
		c := &v.claims.all[i]
		if newest, ok := open[c.sequence]; ok && (newest == nil || newest.revision < c.revision) {
			open[c.sequence] = c
		}
	}
	for key, i := range v.claims.at {
		c := &v.claims.all[i]
		if open[c.sequence] == c && v.orphan(key, c) {
			v.Events++
			v.found = append(v.found, finding{
				Exception: Exception{Kind: Expired, Worker: v.Name, Sequence: c.sequence, Attempts: c.attempts},
				key:       key, revision: c.revision,
			})
		}
	}
}

func (v *view) orphan(key string, c *claim) bool {
	_, waits := v.copies[key]
	return !c.seen && unended(c.state) && !waits && v.covers(c.sequence)
}

// gap finds a worker that the stream's end has overtaken. That the stream dropped messages that the consumer was never
// given proves nothing: they may all have been of other types. But when at the same time its oldest event waits for half
// of the time that events are kept, it stands still, and they were dropped before its eyes.
func (v *view) gap(p position) {
	if v.first <= p.delivered+1 || v.consumer.NumPending == 0 {
		return
	}
	oldest := time.Time{}
	for _, e := range v.ledger.events {
		if e.sequence >= p.next && v.takes[e.typ] {
			oldest = time.Unix(0, e.stored)
			break
		}
	}
	if oldest.IsZero() || v.maxAge == 0 || v.consumer.TimeStamp.Sub(oldest) < v.maxAge/2 {
		return
	}
	v.found = append(v.found, finding{Exception: Exception{
		Kind: Expired, Worker: v.Name, Sequence: p.delivered + 1,
		Detail: fmt.Sprintf("the stream has dropped the sequences %d to %d, which the worker was never given, and its oldest event waits since %s: those of its types are lost to it; start it, or stop the stream from dropping more with headgate provision --max-age",
			p.delivered+1, v.first-1, oldest.UTC().Format(time.RFC3339)),
	}, revision: p.delivered})
}

// claimless makes one exception of all that are missing to a worker without any claim.
func (v *view) claimless() {
	skipped := 0
	v.found = slices.DeleteFunc(v.found, func(f finding) bool {
		if f.Kind == Skipped {
			skipped++
		}
		return f.Kind == Skipped
	})
	if skipped == 0 {
		return
	}
	v.found = append(v.found, finding{Exception: Exception{
		Kind: NoClaims, Worker: v.Name,
		Detail: fmt.Sprintf("the worker's consumer is past %d of its events, and there is no claim of it at all: its bucket was emptied, or it keeps its claims in PostgreSQL: then give headgate audit --postgres", skipped),
	}})
}
