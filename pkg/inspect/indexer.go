package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

const (
	// MinIndexBytes is the smallest limit of an Index: it has room for the newest events.
	MinIndexBytes = 8 << 20

	rangeSize    = 4096 // sequences that build reads at once
	indexPause   = 2 * time.Second
	maxPause     = time.Minute
	trimInterval = time.Minute

	answerers    = 2 // each reads 16 messages at once, which may have the size of the largest event
	answerTime   = 4 * time.Second
	searchTime   = time.Second // after which an answer has no more matches
	searchAtOnce = 64          // sequences that are read before an answer looks at the time
	answerBytes  = 512 << 10   // of the matches in an answer, before the last one
	maxAnswer    = 200         // matches in an answer
	maxRequest   = 4 << 10     // bytes
	waiting      = 64          // requests that wait
)

// An Index finds the stored messages of a source by their ids, and the dead letters by their webhook-ids. It is built newest
// first, by reading the streams in ranges, and kept by following them; it is in memory only. It holds hashes of ids and places, no
// text of an event. It is safe for concurrent use.
type Index struct {
	indexer // of the events
	letters indexer
	source  stream.Source
	atMost  time.Duration // searchTime
}

// lettersPart is which part of the memory of an Index the dead letters have.
const lettersPart = 8

// NewIndex returns an index of at most limit bytes, which is at least MinIndexBytes. About 25 MB hold a million events; of more than
// fit, it holds the newest. An eighth of the limit is for dead letters: a million in 8 MB. It needs the permissions of stream.Read and
// stream.Follow on the streams of the source's events and dead letters.
func NewIndex(js jetstream.JetStream, s stream.Source, limit int) *Index {
	events := func(m *jetstream.RawStreamMsg) []string { return idsOf(NewEvent(s, m), m.Data) }
	letters := func(m *jetstream.RawStreamMsg) []string { return []string{s.OpenRaw(m).ID} }
	return &Index{
		indexer: indexer{js: js, stream: s.Stream(), ids: events, index: newIndex(limit - limit/lettersPart), ranges: rangeSize},
		letters: indexer{js: js, stream: s.DeadStream(), ids: letters, index: newIndex(limit / lettersPart), ranges: rangeSize},
		source:  s, atMost: searchTime,
	}
}

// State says what the index holds now of the events. Bytes are those of the dead letters too.
func (x *Index) State() IndexState {
	s := x.index.state()
	s.Bytes += x.letters.index.state().Bytes
	return s
}

// Run builds and keeps the index until ctx ends. It begins again when a stream was made again, and tries again after an error,
// which it gives to failed each time, one after the other. Between two tries it waits for 2 s, and up to a minute while they fail.
func (x *Index) Run(ctx context.Context, failed func(error)) {
	var one sync.Mutex
	inTurn := func(err error) {
		one.Lock()
		defer one.Unlock()
		failed(err)
	}
	var running sync.WaitGroup
	running.Go(func() { x.letters.keep(ctx, inTurn) })
	x.keep(ctx, inTurn)
	running.Wait()
}

// An indexer builds and keeps the index of one stream.
type indexer struct {
	js     jetstream.JetStream
	stream string
	ids    func(*jetstream.RawStreamMsg) []string
	index  *index
	ranges uint64 // rangeSize

	mu      sync.Mutex
	created time.Time // of the stream that it knows; zero before it knows one
}

// keep does what Index.Run says, for one stream.
func (x *indexer) keep(ctx context.Context, failed func(error)) {
	var again retry
	for ctx.Err() == nil {
		began := time.Now()
		err := x.run(ctx, failed)
		if ctx.Err() != nil {
			return
		}
		failed(err)
		if time.Since(began) > maxPause {
			again = 0
		}
		again.wait(ctx)
	}
}

// run follows one stream until it ends or is no longer the same.
func (x *indexer) run(ctx context.Context, failed func(error)) error {
	info, err := streamInfo(ctx, x.js, x.stream, "")
	if err != nil {
		return fmt.Errorf("stream %s: %w", x.stream, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.begin(info)
	var parts sync.WaitGroup
	part := func(run func(context.Context, *jetstream.StreamInfo) error) {
		parts.Go(func() {
			if err := run(ctx, info); err != nil {
				cancel(err)
			}
		})
	}
	part(x.follow)
	part(func(ctx context.Context, info *jetstream.StreamInfo) error { return x.build(ctx, info, failed) })
	part(x.trim)
	parts.Wait()
	return context.Cause(ctx)
}

func (x *indexer) begin(info *jetstream.StreamInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.created = info.Created
	x.index.begin(info.State.LastSeq)
}

// follow adds what is stored from now on.
func (x *indexer) follow(ctx context.Context, info *jetstream.StreamInfo) error {
	o := stream.ReadOptions{After: info.State.LastSeq, Created: info.Created}
	return stream.Follow(ctx, x.js, x.stream, o, func(m *jetstream.RawStreamMsg) error {
		x.index.addNewer(m.Sequence, m.Time, x.ids(m))
		return nil
	})
}

// A rangeIndex is what an index adds of a range of messages.
type rangeIndex struct {
	postings []posting
	stored   time.Time // when the first message was; zero without one
}

// errFull ends the building of an index that has no room for older messages.
var errFull = errors.New("the index is full")

// build adds what was stored before, newest first, until it has all, or all that fits. It goes on after an error, which it gives to
// failed.
func (x *indexer) build(ctx context.Context, info *jetstream.StreamInfo, failed func(error)) error {
	read := func(ctx context.Context, after, through uint64) (r rangeIndex, err error) {
		o := stream.ReadOptions{After: after, Through: through, Created: info.Created}
		_, err = stream.Read(ctx, x.js, x.stream, o, func(m *jetstream.RawStreamMsg) error {
			if r.stored.IsZero() {
				r.stored = m.Time
			}
			r.postings = x.index.postings(r.postings, m.Sequence, m.Time, x.ids(m))
			return nil
		})
		return r, err
	}
	var again retry
	take := func(after uint64, r rangeIndex) error {
		again = 0
		if !x.index.addOlder(after+1, r.stored, r.postings) {
			return errFull
		}
		return nil
	}
	for {
		from := x.covers().From
		older := span{after: max(info.State.FirstSeq, 1) - 1, through: from - 1, size: x.ranges, largest: x.ranges}
		err := readNewestFirst(ctx, older, read, take)
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, errFull):
			return nil
		case errors.Is(err, stream.ErrRemade):
			return err
		}
		failed(fmt.Errorf("messages of %s before %d: %w", x.stream, x.covers().From, err))
		again.wait(ctx)
	}
}

// trim drops what has expired, and ends when the stream has lost messages that the index knows: a server that makes a stream
// anew, because it has lost its disk and had the only copy, keeps the time at which it was made and counts from 1.
func (x *indexer) trim(ctx context.Context, _ *jetstream.StreamInfo) error {
	for ctx.Err() == nil {
		through := x.covers().Through
		info, err := streamInfo(ctx, x.js, x.stream, "")
		if err == nil && info.State.LastSeq < through {
			return fmt.Errorf("stream %s has lost messages: %w", x.stream, stream.ErrRemade)
		}
		if err == nil {
			x.index.trim(info.State.FirstSeq)
		}
		pause(ctx, trimInterval)
	}
	return nil
}

// Answer answers the requests on the source's FindSubject until ctx ends, in a queue group with other processes that keep an
// index. It answers two at once; 64 wait, and others are told so.
func (x *Index) Answer(ctx context.Context, nc *nats.Conn) error {
	requests := make(chan *nats.Msg, waiting)
	sub, err := nc.QueueSubscribe(x.source.FindSubject(), "find", func(m *nats.Msg) { enqueue(requests, m) })
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	for range answerers {
		running.Go(func() {
			for {
				select {
				case m := <-requests:
					x.respond(ctx, m)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	running.Wait()
	if nc.IsClosed() {
		return nil
	}
	return sub.Unsubscribe()
}

// enqueue refuses a request that does not fit: it may be as large as the server takes, and its client reads the stream itself.
func enqueue(requests chan<- *nats.Msg, m *nats.Msg) {
	if len(m.Data) > maxRequest {
		respond(m, indexAnswer{Error: "the request is too long"})
		return
	}
	select {
	case requests <- m:
	default:
		respond(m, indexAnswer{Error: "too many requests wait"})
	}
}

func (x *Index) respond(ctx context.Context, m *nats.Msg) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var q indexRequest
	answer, err := indexAnswer{}, json.Unmarshal(m.Data, &q)
	switch {
	case err != nil:
	case len(q.IDs) > 0:
		answer, err = x.places(q.IDs)
	default:
		answer, err = x.search(ctx, q.Search)
	}
	if err != nil {
		answer = indexAnswer{Error: err.Error()}
	}
	respond(m, answer)
}

func respond(m *nats.Msg, a indexAnswer) {
	if body, err := json.Marshal(a); err == nil {
		_ = m.Respond(body) // without an answer, the client reads the stream itself
	}
}

// search returns at most maxAnswer matches of a search, and fewer when reading them takes longer than searchTime.
func (x *Index) search(ctx context.Context, q Search) (indexAnswer, error) {
	if q.ID == "" {
		return indexAnswer{}, errors.New("the request has no id")
	}
	if q.Limit <= 0 || q.Limit > maxAnswer {
		q.Limit = maxAnswer
	}
	a := x.covers()
	if q.Before == 0 || q.Before > a.Through { // the client reads what arrives meanwhile
		q.Before = a.Through + 1
	}
	if a.Created.IsZero() {
		return a, errors.New("it has not begun yet")
	}
	if err := x.collect(ctx, q, &a); err != nil {
		return a, err
	}
	return a.at(x.covers())
}

// at returns what is true of an answer when the index covers now: while it searched, it may have dropped the oldest, or begun again.
func (a indexAnswer) at(now indexAnswer) (indexAnswer, error) {
	if !now.Created.Equal(a.Created) {
		return a, stream.ErrRemade
	}
	if now.From > a.From {
		a.From, a.Oldest = now.From, now.Oldest
	}
	return a, nil
}

// covers returns an answer without matches.
func (x *indexer) covers() indexAnswer {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := indexAnswer{Created: x.created}
	a.From, a.Through = x.index.covers()
	a.Oldest = x.index.state().Oldest
	return a
}

// collect adds matches to an answer, newest first.
func (x *Index) collect(ctx context.Context, q Search, a *indexAnswer) error {
	began := time.Now()
	for more := true; more; {
		var sequences []uint64
		if sequences, more = x.index.sequences(q.ID, q.Before, q.Limit); len(sequences) == 0 {
			return nil
		}
		for some := range slices.Chunk(sequences, searchAtOnce) {
			enough, err := x.read(ctx, q, some, a)
			if err != nil || enough {
				return err
			}
			if q.Before = some[len(some)-1]; time.Since(began) >= x.atMost { // also when all were erased
				a.Next = q.Before
				return nil
			}
		}
	}
	return nil
}

// read adds those of some messages that match, and reports whether an answer needs no more.
func (x *Index) read(ctx context.Context, q Search, some []uint64, a *indexAnswer) (enough bool, err error) {
	err = stream.GetAll(ctx, x.js, x.stream, some, func(m *jetstream.RawStreamMsg) bool {
		if m.Time.Before(q.oldest()) {
			enough = true // what is older was stored before
			return false
		}
		if hit, ok := match(x.source, m, q.ID); ok && !m.Time.Before(q.Since) {
			a.Matches = append(a.Matches, hit)
			a.size += hit.size()
		}
		if len(a.Matches) >= q.Limit || a.size >= answerBytes {
			a.Next, enough = m.Sequence, true
		}
		return !enough
	})
	return enough, err
}

// A retry is how long the wait before the last try was.
type retry time.Duration

// wait waits for indexPause, then twice as long each time, up to maxPause, or until ctx ends.
func (r *retry) wait(ctx context.Context) {
	*r = min(max(2**r, retry(indexPause)), retry(maxPause))
	pause(ctx, time.Duration(*r))
}

// pause returns after d, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
