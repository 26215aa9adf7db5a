package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/stream"
)

// Places are where a stream may have messages of some webhook-ids: the index of headgate watch knows hashes only, so that a message
// at a place can have another id.
type Places struct {
	Created time.Time `json:"created"` // of the stream
	// The index knows all messages between these sequences.
	From    uint64    `json:"from"`
	Through uint64    `json:"through"`
	Oldest  time.Time `json:"oldest,omitzero"` // when the message at From was stored
	// Sequences are sorted, each once.
	Sequences []uint64 `json:"sequences,omitempty"`
}

// maxPlaces is how many sequences an answer has.
const maxPlaces = 20_000

// places returns where the events and dead letters of some webhook-ids may be.
func (x *Index) places(ids []string) (indexAnswer, error) {
	events, err := x.indexer.places(ids)
	if err != nil {
		return indexAnswer{}, err
	}
	letters, err := x.letters.places(ids)
	return indexAnswer{Events: events, Letters: letters}, err
}

func (x *indexer) places(ids []string) (*Places, error) {
	before := x.covers()
	if before.Created.IsZero() {
		return nil, errors.New("it has not begun yet")
	}
	all := x.index.places(ids)
	if len(all) > maxPlaces {
		return nil, errors.New("too many messages have these ids")
	}
	now, err := before.at(x.covers())
	return &Places{Created: now.Created, From: now.From, Through: before.Through, Oldest: now.Oldest, Sequences: all}, err
}

// FindPlaces asks the index that headgate watch keeps where the events and their redrives, and the dead letters of some webhook-ids
// may be. The error says why it does not know. It needs the permission to publish on the source's FindSubject.
func FindPlaces(ctx context.Context, nc *nats.Conn, s stream.Source, ids []string) (events, letters Places, err error) {
	for first := true; first || len(ids) > 0; first = false {
		var some []string
		if some, ids, err = requestable(ids); err != nil {
			return events, letters, err
		}
		a, err := requestIndex(ctx, nc, s, indexRequest{IDs: some})
		if err == nil && (a.Events == nil || a.Letters == nil) {
			err = errors.New("the headgate watch that runs is of an earlier version")
		}
		if err == nil && first {
			events, letters = *a.Events, *a.Letters
			continue
		}
		if err == nil {
			err = errors.Join(events.join(*a.Events), letters.join(*a.Letters))
		}
		if err != nil {
			return events, letters, err
		}
	}
	return events, letters, nil
}

// requestable returns as many ids as one request has, and the rest.
func requestable(ids []string) (some, rest []string, err error) {
	bytes := len(`{"id":"","ids":[]}`)
	for i, id := range ids {
		text, err := json.Marshal(id)
		if err != nil {
			return nil, nil, err
		}
		if bytes += len(text) + 1; bytes > maxRequest {
			if i == 0 {
				return nil, nil, errors.New("a webhook-id is too long for the index of headgate watch")
			}
			return ids[:i], ids[i:], nil
		}
	}
	return ids, nil, nil
}

// join adds the places of other ids. Another process may have answered, which knows less.
func (p *Places) join(q Places) error {
	if !q.Created.Equal(p.Created) {
		return stream.ErrRemade
	}
	if q.From > p.From {
		p.From, p.Oldest = q.From, q.Oldest
	}
	p.Through = min(p.Through, q.Through)
	p.Sequences = append(p.Sequences, q.Sequences...)
	slices.Sort(p.Sequences)
	p.Sequences = slices.Compact(p.Sequences)
	return nil
}
