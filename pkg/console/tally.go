package console

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// A tally counts the records of a bucket by class. It reads what has changed since it read last, and no more, so that a bucket of any
// size costs nothing while it does not change.
type tally[R any] struct {
	stream string
	// class says under what a record counts.
	class func(R) string
	// keys chooses records by the beginning of their keys; all without it.
	skip func(key string) bool

	created time.Time
	after   uint64
	records map[string]counted
}

// counted is the class of one record, and where it is.
type counted struct {
	class    string
	sequence uint64
}

// look counts. The counts are nil when there is no such bucket.
func (t *tally[R]) look(ctx context.Context, js jetstream.JetStream) (map[string]int, error) {
	st, err := js.Stream(ctx, t.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info := st.CachedInfo()
	if !t.created.Equal(info.Created) || info.State.LastSeq < t.after {
		t.created, t.after, t.records = info.Created, 0, map[string]counted{}
	}
	if info.State.LastSeq > t.after {
		last, err := stream.Read(ctx, js, t.stream, stream.ReadOptions{After: t.after, Created: t.created}, t.take)
		if err != nil {
			return t.counts(info.State.FirstSeq), err
		}
		t.after = last
	}
	return t.counts(info.State.FirstSeq), nil
}

func (t *tally[R]) take(m *jetstream.RawStreamMsg) error {
	t.after = max(t.after, m.Sequence)
	if t.skip != nil && t.skip(m.Subject) {
		return nil
	}
	if m.Header.Get("KV-Operation") != "" {
		delete(t.records, m.Subject)
		return nil
	}
	var r R
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil // a later version wrote it
	}
	t.records[m.Subject] = counted{t.class(r), m.Sequence}
	return nil
}

// counts counts the records that have not expired: those that are left begin with the sequence first.
func (t *tally[R]) counts(first uint64) map[string]int {
	all := map[string]int{}
	for key, r := range t.records {
		if r.sequence < first {
			delete(t.records, key)
			continue
		}
		all[r.class]++
	}
	return all
}
