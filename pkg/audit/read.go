package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
)

// bucketPrefix begins the name of the stream of a KV bucket.
const bucketPrefix = "KV_"

// requestTimeout bounds one request to the server.
const requestTimeout = 10 * time.Second

// read reads a stream and reports the progress.
func (a *Audit) read(ctx context.Context, name, what string, o stream.ReadOptions, each func(*jetstream.RawStreamMsg) error) (uint64, error) {
	o.Progress = func(done, total uint64) { a.Progress(what, done, total) }
	return stream.Read(ctx, a.JS, name, o, each)
}

func (a *Audit) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := a.JS.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return st.CachedInfo(), nil
}

// eventLog is the content of the source's stream. It keeps a small record of each event, because there may be millions.
type eventLog struct {
	types []string
	index map[string]uint32 // into types

	created time.Time // when the stream was created
	first   uint64    // the log has nothing before this sequence
	last    uint64    // the log has nothing after this sequence

	events      []entry
	redrives    map[string][]redriven // by worker
	quarantined []Message
	unverified  []Exception

	stray map[uint64]string // by sequence: the redrive in the headers of an event of another publisher, which is not one
}

// key returns the key of an event's claims. A worker takes the redrive from the headers, also when it is a stray one.
func (l *eventLog) key(e entry) claims.Key {
	return claims.Key{WebhookID: e.id, Redrive: l.stray[e.sequence]}
}

// entry is a message in the stream.
type entry struct {
	id       string
	sequence uint64
	stored   int64 // nanoseconds
	typ      uint32
}

// redriven is a redrive: an event that was given to a worker again.
type redriven struct {
	entry
	redrive string
	of      uint64 // sequence of the event itself
}

// readEvents reads the messages that the log does not have yet.
func (a *Audit) readEvents(ctx context.Context, log *eventLog) error {
	reading := log.last > 0
	if log.created.IsZero() {
		info, err := a.info(ctx, a.Source.Stream())
		if err != nil {
			return err
		}
		log.created = info.Created
	}
	o := stream.ReadOptions{After: log.last, Created: log.created, Since: a.Since}
	last, err := a.read(ctx, a.Source.Stream(), "events", o, func(m *jetstream.RawStreamMsg) error {
		if m.Time.Before(a.Since) {
			return nil // the server's clock was set back
		}
		if !reading && !a.Since.IsZero() {
			log.first = m.Sequence
		}
		reading = true
		a.add(log, m)
		return nil
	})
	if !reading && !a.Since.IsZero() {
		log.first = last + 1
	}
	log.last = max(log.last, last)
	return err
}

// readElsewhere adds the messages that a server cannot read and another can. Any server answers readEvents, and one that
// cannot read a message passes it.
func (a *Audit) readElsewhere(ctx context.Context, log *eventLog, sequences []uint64) error {
	sequences = log.without(sequences)
	if len(sequences) == 0 {
		return nil
	}
	st, err := a.JS.Stream(ctx, a.Source.Stream())
	if err != nil {
		return fmt.Errorf("stream %s: %w", a.Source.Stream(), err)
	}
	for _, sequence := range sequences {
		var m *jetstream.RawStreamMsg
		for range asks {
			if m, err = st.GetMsg(ctx, sequence); !errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
		}
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound): // its server went away, or it was deleted since
		case err != nil:
			return fmt.Errorf("message %d of stream %s: %w", sequence, a.Source.Stream(), err)
		default:
			a.add(log, m)
		}
	}
	bySequence := func(x, y entry) int { return cmp.Compare(x.sequence, y.sequence) }
	slices.SortFunc(log.events, bySequence)
	for _, redrives := range log.redrives {
		slices.SortFunc(redrives, func(x, y redriven) int { return bySequence(x.entry, y.entry) })
	}
	return nil
}

// without returns those of the sequences that the log does not have and has come to.
func (l *eventLog) without(sequences []uint64) []uint64 {
	missing := map[uint64]bool{}
	for _, sequence := range sequences {
		missing[sequence] = sequence <= l.last
	}
	for _, e := range l.events {
		delete(missing, e.sequence)
	}
	for _, redrives := range l.redrives {
		for _, r := range redrives {
			delete(missing, r.sequence)
		}
	}
	for _, m := range l.quarantined {
		delete(missing, m.Sequence)
	}
	return slices.DeleteFunc(sequences, func(sequence uint64) bool { return !missing[sequence] })
}

// add adds one message to the log.
func (a *Audit) add(log *eventLog, m *jetstream.RawStreamMsg) {
	subject, opened := m.Subject, a.Source.OpenRaw(m)
	e := entry{id: opened.ID, sequence: m.Sequence, stored: m.Time.UnixNano()}
	typ := a.Source.TypeOf(subject)
	if a.Verify != nil && a.Verify(m.Header, m.Data) != nil {
		log.unverified = append(log.unverified, Exception{Kind: Unverified, Sequence: e.sequence, Type: typ, WebhookID: e.id})
	}
	if subject == a.Source.QuarantineSubject() {
		log.quarantined = append(log.quarantined, Message{
			Sequence: e.sequence, WebhookID: e.id, Stored: m.Time, Reason: opened.Quarantine,
		})
		return
	}
	index, known := log.index[typ]
	if !known {
		index = uint32(len(log.types))
		log.types, log.index[typ] = append(log.types, typ), index
	}
	e.typ = index
	worker := a.Source.WorkerOf(subject)
	if worker == "" {
		if opened.Redrive != "" {
			log.stray[e.sequence] = opened.Redrive
		}
		log.events = append(log.events, e)
		return
	}
	log.redrives[worker] = append(log.redrives[worker], redriven{e, opened.Redrive, opened.Sequence})
}

// claim is the part of a worker's claim that the audit needs.
type claim struct {
	state    claims.State
	attempts int
	sequence uint64
	revision uint64
	next     time.Time
	seen     bool // its event is stored
	shared   bool // it may be of another source
}

// claimSet holds the claims of a worker by their keys.
type claimSet struct {
	all   []claim
	at    map[string]int32 // into all
	first time.Time        // when the first attempt of all began; zero without a claim that says it
}

func (c *claimSet) get(key string) *claim {
	if i, ok := c.at[key]; ok {
		return &c.all[i]
	}
	return nil
}

func (c *claimSet) put(key string, r claims.Record, revision uint64, shared bool) {
	now := claim{state: r.State, attempts: r.Attempts, sequence: r.Sequence, revision: revision, next: r.Next, shared: shared}
	if !shared && !r.First.IsZero() && (c.first.IsZero() || r.First.Before(c.first)) {
		c.first = r.First
	}
	if known := c.get(key); known != nil { // it was written while the bucket was read
		*known = now
		return
	}
	c.at[key] = int32(len(c.all))
	c.all = append(c.all, now)
}

// readClaims reads all claims of a worker with one consumer: a request for each would take hours.
func (a *Audit) readClaims(ctx context.Context, worker string) (*claimSet, error) {
	c := &claimSet{at: map[string]int32{}}
	if external := a.ExternalClaims[worker]; external != nil {
		return c, external.All(ctx, func(key string, revision uint64, r claims.Record) error {
			if r.Source == "" || r.Source == a.Source {
				c.put(key, r, revision, r.Source == "")
			}
			return nil
		})
	}
	bucket := a.Source.ClaimsBucket(worker)
	prefix := "$KV." + bucket + "."
	_, err := a.read(ctx, bucketPrefix+bucket, "claims of "+worker, stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		key := strings.TrimPrefix(m.Subject, prefix)
		if m.Header.Get("KV-Operation") != "" { // a user deleted it
			delete(c.at, key)
			return nil
		}
		var r claims.Record
		if json.Unmarshal(m.Data, &r) != nil {
			r.State = "unreadable"
		}
		if r.First.IsZero() { // as in one that is done
			r.First = m.Time
		}
		c.put(key, r, m.Sequence, false)
		return nil
	})
	return c, err
}

// deadLetters returns the keys of a worker's dead letters.
func (a *Audit) deadLetters(ctx context.Context, worker string) (map[string]bool, error) {
	keys := map[string]bool{}
	o := stream.ReadOptions{Filters: []string{a.Source.DeadFilter(worker)}}
	_, err := a.read(ctx, a.Source.DeadStream(), "dead letters of "+worker, o, func(m *jetstream.RawStreamMsg) error {
		keys[keyOf(a.Source.OpenRaw(m)).String()] = true
		return nil
	})
	return keys, err
}

// parked is a parked copy.
type parked struct {
	key claims.Key
	typ string
}

// parkedCopies returns a worker's parked copies by the keys of their claims.
func (a *Audit) parkedCopies(ctx context.Context, worker string) (map[string]parked, error) {
	copies := map[string]parked{}
	o := stream.ReadOptions{Filters: []string{a.Source.ParkedFilter(worker)}}
	_, err := a.read(ctx, a.Source.ParkedStream(), "parked events of "+worker, o, func(m *jetstream.RawStreamMsg) error {
		k := keyOf(a.Source.OpenRaw(m))
		copies[k.String()] = parked{k, a.Source.TypeOf(m.Subject)}
		return nil
	})
	return copies, err
}

// keyOf returns the key of the claim of a parked copy or a dead letter.
func keyOf(e stream.Stored) claims.Key {
	return claims.Key{WebhookID: e.ID, Redrive: e.Redrive}
}
