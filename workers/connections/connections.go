// Package connections is the worker that keeps the latest truth about every connection of every company in a KV
// bucket. The truth depends on which events came and not on their order, so that events that come late, twice or
// again from a replay change nothing that newer ones have said.
package connections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// Name is the worker's name, and its state's: the bucket is CODAT_connections for the source codat.
const Name = "connections"

// lateness is how long Codat retries an event: a date that is missing is at most so much before its arrival.
const lateness = 28 * time.Hour

// State is what is known of one connection.
type State struct {
	Company    string `json:"company"`
	Connection string `json:"connection"`
	// Status is "" while only reads have told of the connection.
	Status codat.ConnectionStatus `json:"status,omitempty"`
	// Deleted says that the connection is gone; Status is what it was.
	Deleted bool `json:"deleted,omitempty"`
	// Suspect says that a read failed for want of authorisation since the status was reported last: Codat
	// notices a disconnect on the platform's side only then, and sends no event for it.
	Suspect bool `json:"suspect,omitempty"`
	// Changed is when the status was reported: when Codat generated the event, or, for an event without a
	// date, when it was received first.
	Changed time.Time `json:"changed,omitzero"`
	// Platform is the four letters of the accounting platform, PlatformName and SourceType what Codat says of it.
	Platform     string           `json:"platform,omitempty"`
	PlatformName string           `json:"platform_name,omitempty"`
	SourceType   codat.SourceType `json:"source_type,omitempty"`

	// Dated, Undated and Read are the newest facts of their kind, of which the fields above are made.
	Dated   *Fact `json:"dated,omitempty"`
	Undated *Fact `json:"undated,omitempty"`
	Read    *Fact `json:"read,omitempty"`
}

// A Fact is what one event says of a connection.
type Fact struct {
	Type      string    `json:"type"`
	WebhookID string    `json:"webhook_id"`
	Generated time.Time `json:"generated,omitzero"`
	Received  time.Time `json:"received"`
	Sequence  uint64    `json:"sequence"`

	Status       codat.ConnectionStatus `json:"status,omitempty"`
	Deleted      bool                   `json:"deleted,omitempty"`
	AuthError    bool                   `json:"auth_error,omitempty"`
	Platform     string                 `json:"platform,omitempty"`
	PlatformName string                 `json:"platform_name,omitempty"`
	SourceType   codat.SourceType       `json:"source_type,omitempty"`
}

// at is when the fact was true, as well as is known.
func (f *Fact) at() time.Time {
	if f.Generated.IsZero() {
		return f.Received
	}
	return f.Generated
}

// after orders facts of one kind: by their time, and then by their place in the stream.
func (f *Fact) after(g *Fact) bool {
	if g == nil {
		return true
	}
	if at, than := f.at(), g.at(); !at.Equal(than) {
		return at.After(than)
	}
	return f.Sequence > g.Sequence
}

// with is the state once a fact is known too. It depends on the set of facts and not on their order.
func (s State) with(f Fact) State {
	kind := &s.Dated
	switch {
	case strings.Contains(f.Type, "read.completed"):
		kind = &s.Read
	case f.Generated.IsZero():
		kind = &s.Undated
	}
	if f.after(*kind) {
		*kind = &f
	}

	// Without a date, an event may be as old as Codat's retries: it speaks only when it is newer all the same.
	status := s.Dated
	if s.Undated != nil && (s.Dated == nil || s.Undated.Received.After(s.Dated.Generated.Add(lateness))) {
		status = s.Undated
	}
	if status != nil {
		s.Status, s.Deleted, s.Changed = status.Status, status.Deleted, status.at()
		s.Platform, s.PlatformName, s.SourceType = status.Platform, status.PlatformName, status.SourceType
	}
	s.Suspect = s.Read != nil && s.Read.AuthError && !s.Deleted && s.Read.at().After(s.Changed)
	return s
}

// Store is the states of one source. The zero Store can be asked for a Worker's shape and for nothing else.
type Store struct{ bucket jetstream.KeyValue }

// Open opens the states of a source, for a worker or for a service that reads them.
func Open(ctx context.Context, js jetstream.JetStream, s stream.Source) (Store, error) {
	kv, err := workers.Parts{JS: js, Source: s}.State(ctx, Name)
	return Store{kv}, err
}

// Get returns what is known of a connection; jetstream.ErrKeyNotFound when nothing is.
func (s Store) Get(ctx context.Context, company, connection string) (State, error) {
	k, err := key(company, connection)
	if err != nil {
		return State{}, err
	}
	state, _, err := s.get(ctx, k)
	return state, err
}

// Watch calls each with every connection of a company as it stands now, and then with every change, until ctx
// ends or each returns an error. It returns ctx's error or each's.
func (s Store) Watch(ctx context.Context, company string, each func(State) error) error {
	if err := usable("company", company); err != nil {
		return err
	}
	w, err := s.bucket.Watch(ctx, company+".*", jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("watching the connections of a company: %w", err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("the watch of connections was ended by the broker: watch again")
			}
			if e == nil { // all that was there before has been told
				continue
			}
			state, err := open(e)
			if err != nil {
				return err
			}
			if err := each(state); err != nil {
				return err
			}
		}
	}
}

func open(e jetstream.KeyValueEntry) (State, error) {
	var state State
	if err := json.Unmarshal(e.Value(), &state); err != nil {
		return state, fmt.Errorf("state of connection %s: %w", e.Key(), err)
	}
	return state, nil
}

func (s Store) get(ctx context.Context, k string) (State, uint64, error) {
	e, err := s.bucket.Get(ctx, k)
	if err != nil {
		return State{}, 0, err
	}
	state, err := open(e)
	return state, e.Revision(), err
}

// tries bounds how often a state is written again because another event of its connection came first.
const tries = 10

// learn adds a fact to a connection's state. Adding it again changes nothing.
func (s Store) learn(ctx context.Context, company, connection string, f Fact) error {
	k, err := key(company, connection)
	if err != nil {
		return workers.Permanent(err)
	}
	for range tries {
		state, revision, err := s.get(ctx, k)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			state, err = State{Company: company, Connection: connection}, nil
		}
		if err != nil {
			return unavailable(err)
		}
		value, err := json.Marshal(state.with(f))
		if err != nil {
			return workers.Permanent(err)
		}
		if revision == 0 {
			_, err = s.bucket.Create(ctx, k, value)
		} else {
			_, err = s.bucket.Update(ctx, k, value, revision)
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, jetstream.ErrKeyExists) && !errors.Is(err, jetstream.ErrKeyRevisionMismatch):
			return unavailable(err)
		}
	}
	return errors.New("the state of a connection was written by others again and again")
}

// unavailable is what a bucket that is full, gone or silent means for every event alike: none of them is to blame.
func unavailable(err error) error {
	return workers.Unavailable(fmt.Errorf("state of a connection: %w", err))
}

// key is <company>.<connection>. Ids that Codat gives are UUIDs; one that would reach other keys is refused.
func key(company, connection string) (string, error) {
	if err := errors.Join(usable("company", company), usable("connection", connection)); err != nil {
		return "", err
	}
	return company + "." + connection, nil
}

func usable(what, id string) error {
	if id == "" {
		return fmt.Errorf("there is no %s id", what)
	}
	if strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) >= 0 {
		return fmt.Errorf("the %s id has characters other than letters, digits, - and _", what)
	}
	return nil
}
