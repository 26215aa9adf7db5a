package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// A Search chooses stored messages by an id: a webhook-id, the id in the body of an event, or that of a company, a connection
// or a push operation.
type Search struct {
	ID string `json:"id"`
	// Since chooses only messages that were stored then or later.
	Since time.Time `json:"since,omitzero"`
	// Before chooses only messages with a lower sequence. Zero: all.
	Before uint64 `json:"before,omitempty"`
	// Limit is how many messages are wanted, the newest. Zero: all.
	Limit int `json:"limit,omitempty"`

	// Scanning is called before messages are read one by one that no index knows, with the reason. May be nil.
	Scanning func(reason string) `json:"-"`
	// Progress is called while they are read, as stream.ReadOptions says. May be nil.
	Progress func(done, of uint64) `json:"-"`
}

// clockStep is by how much a message may have an earlier time than one before it: the next leader of a stream has another clock.
const clockStep = time.Minute

// oldest returns a time before which no message was stored that it chooses, and none that comes before one that it chooses. It is
// zero when it chooses messages of all times.
func (q Search) oldest() time.Time {
	if q.Since.IsZero() {
		return q.Since
	}
	return q.Since.Add(-clockStep)
}

// An IDKind says which id of a message it was found by.
type IDKind string

// The ids of a message. A message that has the same id twice is found by the first of these.
const (
	ByWebhookID     IDKind = "webhook-id"
	ByBodyID        IDKind = "body id"
	ByCompany       IDKind = "company"
	ByConnection    IDKind = "connection"
	ByPushOperation IDKind = "push operation"
)

var idKinds = []IDKind{ByWebhookID, ByBodyID, ByCompany, ByConnection, ByPushOperation}

// A Match is a message that a Search has found.
type Match struct {
	Event
	By IDKind `json:"found_by"`
}

// idsOf returns the ids of a message in the order of idKinds.
func idsOf(e Event, body []byte) []string {
	head, _ := codat.Read(body) // what cannot be read has no id
	return []string{e.WebhookID, head.EventID, e.Company, e.Connection, e.PushOperationKey}
}

func match(s stream.Source, m *jetstream.RawStreamMsg, id string) (Match, bool) {
	e := NewEvent(s, m)
	i := slices.Index(idsOf(e, m.Data), id)
	if i < 0 {
		return Match{}, false
	}
	return Match{e, idKinds[i]}, true
}

// size returns how many bytes a match has in an answer.
func (m Match) size() int {
	text, _ := json.Marshal(m) // it has only texts, numbers and times
	return len(text)
}

// indexTimeout bounds a request to the index.
const indexTimeout = 5 * time.Second

// FindEvents calls each with what a search chooses, newest first, until each returns an error, which it then returns. It asks the
// index that headgate watch keeps, and reads from the stream what the index does not know: all that is stored when no index
// answers. Its result is the same with and without an index. It needs the permissions of stream.Read on the source's stream.
func FindEvents(ctx context.Context, js jetstream.JetStream, s stream.Source, q Search, each func(Match) error) error {
	if q.Before == 0 {
		q.Before = math.MaxUint64
	}
	st, err := js.Stream(ctx, s.Stream())
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Stream(), err)
	}
	f := search{js: js, source: s, Search: q, info: st.CachedInfo(), each: each}
	if err := f.run(ctx); err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

// errEnough ends a search that has found as many as it may.
var errEnough = errors.New("the limit is reached")

type search struct {
	js     jetstream.JetStream
	source stream.Source
	info   *jetstream.StreamInfo
	each   func(Match) error
	found  int
	Search
}

func (f *search) run(ctx context.Context) error {
	done, reason, err := f.searchIndex(ctx)
	if done || err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if f.Scanning != nil {
		f.Scanning(reason.Error())
	}
	return f.scan(ctx, 0, f.Before-1)
}

// searchIndex gives what the index knows, page by page, and what is newer. It reports whether that is all; the reason says why
// not.
func (f *search) searchIndex(ctx context.Context) (done bool, reason, err error) {
	for {
		page, reason := f.askIndex(ctx)
		if reason != nil {
			return false, reason, nil
		}
		// Another process than that of the page before may answer, which knows less.
		if err := f.scan(ctx, page.Through, f.Before-1); err != nil {
			return false, nil, err
		}
		if err := f.give(page.Matches); err != nil {
			return false, nil, err
		}
		if page.Next != 0 {
			f.Before = page.Next
			continue
		}
		f.Before = min(f.Before, page.From)
		if n := len(page.Matches); n > 0 { // the index may have dropped it meanwhile
			f.Before = min(f.Before, page.Matches[n-1].Sequence)
		}
		if f.Before <= max(f.info.State.FirstSeq, 1) || page.Oldest.Before(f.oldest()) && !page.Oldest.IsZero() {
			return true, nil, nil
		}
		return false, errors.New("the index of headgate watch does not go back to the oldest event"), nil
	}
}

// give gives matches, which are newest first.
func (f *search) give(all []Match) error {
	for _, m := range all {
		if err := f.each(m); err != nil {
			return err
		}
		if f.found++; f.found == f.Limit {
			return errEnough
		}
	}
	return nil
}

const (
	firstScan   = 1024 // sequences that a scan reads first
	largestScan = 8192 // sequences that it reads at once
)

// scan reads the messages between two sequences, newest first, and gives matches as it finds them.
func (f *search) scan(ctx context.Context, after, through uint64) error {
	through = min(through, f.info.State.LastSeq) // what is stored later is no part of the search
	older := span{after: max(after, max(f.info.State.FirstSeq, 1)-1), through: through, size: firstScan, largest: largestScan}
	if older.through <= older.after {
		return nil
	}
	if !f.Since.IsZero() {
		oldest, err := stream.SequenceAt(ctx, f.js, f.source.Stream(), f.oldest())
		if err != nil || oldest == 0 {
			return err
		}
		older.after = max(older.after, oldest-1)
	}
	all := older.through - min(older.after, older.through)
	return readNewestFirst(ctx, older, f.readRange, func(after uint64, found []Match) error {
		if f.Progress != nil {
			f.Progress(all-(after-older.after), all)
		}
		return f.give(found)
	})
}

// readRange returns the matches between two sequences, newest first.
func (f *search) readRange(ctx context.Context, after, through uint64) (found []Match, err error) {
	o := stream.ReadOptions{After: after, Through: through, Created: f.info.Created}
	_, err = stream.Read(ctx, f.js, f.source.Stream(), o, func(m *jetstream.RawStreamMsg) error {
		if hit, ok := match(f.source, m, f.ID); ok && !m.Time.Before(f.Since) {
			found = append(found, hit)
		}
		return nil
	})
	slices.Reverse(found)
	return found, err
}

// askIndex returns what the index knows before Before. The error says why it does not.
func (f *search) askIndex(ctx context.Context) (indexAnswer, error) {
	q := f.Search
	if q.Limit > 0 {
		q.Limit -= f.found
	}
	page, err := requestIndex(ctx, f.js.Conn(), f.source, indexRequest{Search: q})
	if err == nil && (!page.Created.Equal(f.info.Created) || page.Through > f.info.State.LastSeq && f.isStale(ctx, page)) {
		err = errors.New("the index of headgate watch is that of an earlier stream")
	}
	return page, err
}

// isStale reports whether the stream is not the one of which the index knows, although it has the time of that: a server that
// has lost the only copy makes it anew, and keeps the time.
func (f *search) isStale(ctx context.Context, page indexAnswer) bool {
	st, err := f.js.Stream(ctx, f.source.Stream())
	return err != nil || page.Through > st.CachedInfo().State.LastSeq
}

// indexAnswer is the answer to a request for a Search.
type indexAnswer struct {
	Created time.Time `json:"created"` // the stream
	// The index knows all messages between these sequences.
	From    uint64    `json:"from"`
	Through uint64    `json:"through"`
	Oldest  time.Time `json:"oldest,omitzero"` // when the message at From was stored
	Matches []Match   `json:"matches"`         // newest first
	size    int       // of the matches, in bytes
	// Next is Before of the request for what follows. Zero: there is no more.
	Next  uint64 `json:"next,omitempty"`
	Error string `json:"error,omitempty"`

	// Events and Letters answer a request with IDs.
	Events  *Places `json:"events,omitempty"`
	Letters *Places `json:"letters,omitempty"`
}

// indexRequest is a request to the index: a Search, or IDs, of which it asks where their messages are.
type indexRequest struct {
	Search
	IDs []string `json:"ids,omitempty"`
}

// requestIndex asks once. The error says why there is no answer.
func requestIndex(ctx context.Context, nc *nats.Conn, s stream.Source, q indexRequest) (indexAnswer, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return indexAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, s.FindSubject(), body)
	if errors.Is(err, nats.ErrNoResponders) {
		return indexAnswer{}, errors.New("no headgate watch runs that keeps an index")
	}
	if err != nil {
		return indexAnswer{}, fmt.Errorf("the index of headgate watch does not answer: %w", err)
	}
	var a indexAnswer
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, errors.New("the answer of headgate watch cannot be read: it is another version's")
	}
	if a.Error != "" {
		return a, fmt.Errorf("the index of headgate watch: %s", a.Error)
	}
	return a, nil
}
