package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// patience bounds one answer of the broker.
const patience = 10 * time.Second

// read reads a stream and says how far it is.
func (a *Audit) read(ctx context.Context, name, what string, cfg jetstream.OrderedConsumerConfig, each func(jetstream.Msg, *jetstream.MsgMetadata) error) (uint64, error) {
	return stream.Read(ctx, a.JS, name, cfg, each, func(done, of uint64) { a.Progress(what, done, of) })
}

func (a *Audit) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := a.JS.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return st.CachedInfo(), nil
}

// ledger is what the stream has: a small record of each event, because there may be millions.
type ledger struct {
	types []string
	index map[string]uint32 // into types
	first uint64            // nothing before is in it
	last  uint64            // nothing after is in it

	events      []entry
	redrives    map[string][]redriven // by worker
	quarantined []Message
	unproven    []Exception
}

// entry is a message in the stream.
type entry struct {
	id       string
	sequence uint64
	stored   int64 // nanoseconds
	typ      uint32
}

// redriven is an event that was given to a worker again.
type redriven struct {
	entry
	redrive string
	of      uint64 // the sequence of the event itself
}

// extend reads what the ledger does not have yet.
func (a *Audit) extend(ctx context.Context, l *ledger) error {
	// All is read and not only events: one filter more would cost the server more than what it saves.
	cfg := jetstream.OrderedConsumerConfig{HeadersOnly: a.Prove == nil, DeliverPolicy: jetstream.DeliverAllPolicy}
	switch {
	case l.last > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, l.last+1
	case !a.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &a.Since
	}
	begun := l.last > 0
	last, err := a.read(ctx, a.Source.Stream(), "events", cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if meta.Timestamp.Before(a.Since) {
			return nil // a time in the future begins with what is stored last
		}
		if !begun && !a.Since.IsZero() {
			l.first = meta.Sequence.Stream
		}
		begun = true
		a.enter(l, m, meta)
		return nil
	})
	if !begun && !a.Since.IsZero() {
		l.first = last + 1
	}
	l.last = max(l.last, last)
	return err
}

// enter writes one message down.
func (a *Audit) enter(l *ledger, m jetstream.Msg, meta *jetstream.MsgMetadata) {
	h, subject := m.Headers(), m.Subject()
	e := entry{id: h.Get(stream.HeaderWebhookID), sequence: meta.Sequence.Stream, stored: meta.Timestamp.UnixNano()}
	typ := a.Source.TypeOf(subject)
	if a.Prove != nil && a.Prove(h, m.Data()) != nil {
		l.unproven = append(l.unproven, Exception{Kind: NotProven, Sequence: e.sequence, Type: typ, WebhookID: e.id})
	}
	if subject == a.Source.QuarantineSubject() {
		l.quarantined = append(l.quarantined, Message{
			Sequence: e.sequence, WebhookID: e.id, Stored: meta.Timestamp, Reason: stream.Attribute(h, stream.HeaderQuarantineReason),
		})
		return
	}
	index, known := l.index[typ]
	if !known {
		index = uint32(len(l.types))
		l.types, l.index[typ] = append(l.types, typ), index
	}
	e.typ = index
	worker := a.Source.WorkerOf(subject)
	if worker == "" {
		e.id = idOf(e.id, e.sequence)
		l.events = append(l.events, e)
		return
	}
	of, err := strconv.ParseUint(h.Get(deadletter.HeaderSequence), 10, 64)
	if err != nil {
		of = e.sequence
	}
	e.id = idOf(e.id, of)
	l.redrives[worker] = append(l.redrives[worker], redriven{e, h.Get(stream.HeaderRedrive), of})
}

// idOf is the id that a worker knows an event by; one that another hand published has none.
func idOf(id string, sequence uint64) string {
	if id == "" {
		return "sequence-" + strconv.FormatUint(sequence, 10)
	}
	return id
}

// claim is what is kept of a worker's claim.
type claim struct {
	state    workers.State
	attempts int
	sequence uint64
	revision uint64
	next     time.Time
	seen     bool // an event that it belongs to is stored
}

// claims are a worker's, by their keys.
type claims struct {
	all []claim
	at  map[string]int32 // into all
}

func (c *claims) of(key string) *claim {
	if i, ok := c.at[key]; ok {
		return &c.all[i]
	}
	return nil
}

func (c *claims) put(key string, r workers.Record, revision uint64) {
	now := claim{state: r.State, attempts: r.Attempts, sequence: r.Sequence, revision: revision, next: r.Next}
	if known := c.of(key); known != nil { // it moved while it was read
		*known = now
		return
	}
	c.at[key] = int32(len(c.all))
	c.all = append(c.all, now)
}

// claims reads all claims of a worker in one go: a question for each would take hours.
func (a *Audit) claims(ctx context.Context, worker string) (*claims, error) {
	c := &claims{at: map[string]int32{}}
	put := func(key string, revision uint64, r workers.Record) error {
		c.put(key, r, revision)
		return nil
	}
	if elsewhere := a.Elsewhere[worker]; elsewhere != nil {
		return c, elsewhere.All(ctx, put)
	}
	bucket := a.Source.ClaimsBucket(worker)
	prefix := "$KV." + bucket + "."
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	_, err := a.read(ctx, "KV_"+bucket, "claims of "+worker, cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		key := strings.TrimPrefix(m.Subject(), prefix)
		if m.Headers().Get("KV-Operation") != "" { // an operator deleted it
			delete(c.at, key)
			return nil
		}
		var r workers.Record
		if json.Unmarshal(m.Data(), &r) != nil {
			r.State = "unreadable"
		}
		return put(key, meta.Sequence.Stream, r)
	})
	return c, err
}

// letters are the keys of a worker's dead letters.
func (a *Audit) letters(ctx context.Context, worker string) (map[string]bool, error) {
	keys := map[string]bool{}
	cfg := jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverAllPolicy, HeadersOnly: true, FilterSubjects: []string{a.Source.DeadFilter(worker)},
	}
	_, err := a.read(ctx, a.Source.DeadStream(), "dead letters of "+worker, cfg, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		keys[keyOf(m.Headers()).String()] = true
		return nil
	})
	return keys, err
}

// parked is a copy that waits.
type parked struct {
	key workers.Key
	typ string
}

// copies are a worker's parked copies, by the keys of their claims. They stand on a work queue, which no second consumer may read: they
// are fetched one by one, and there are 20,000 of them at most before a worker stops to take new ones.
func (a *Audit) copies(ctx context.Context, worker string) (map[string]parked, error) {
	copies := map[string]parked{}
	st, err := a.JS.Stream(ctx, a.Source.ParkedStream())
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", a.Source.ParkedStream(), err)
	}
	last := st.CachedInfo().State.LastSeq
	for sequence := uint64(1); sequence <= last; {
		m, err := one(ctx, st, sequence, a.Source.ParkedFilter(worker))
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return copies, nil
		case err != nil:
			return nil, fmt.Errorf("reading stream %s: %w", a.Source.ParkedStream(), err)
		}
		k := keyOf(m.Header)
		copies[k.String()] = parked{k, a.Source.TypeOf(m.Subject)}
		sequence = m.Sequence + 1
	}
	return copies, nil
}

// one is the first message from a sequence on under a filter.
func one(ctx context.Context, st jetstream.Stream, from uint64, filter string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return st.GetMsg(ctx, from, jetstream.WithGetMsgSubject(filter))
}

// keyOf is the work that a copy or a letter belongs to.
func keyOf(h nats.Header) workers.Key {
	of, _ := strconv.ParseUint(h.Get(deadletter.HeaderSequence), 10, 64)
	return workers.Key{WebhookID: idOf(h.Get(stream.HeaderWebhookID), of), Redrive: h.Get(stream.HeaderRedrive)}
}
