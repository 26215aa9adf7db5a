package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// A letterReader reads what came of dead letters: of those that it is asked for, while the index of headgate watch answers, and
// otherwise of all that filter chooses, once.
type letterReader struct {
	js       jetstream.JetStream
	source   stream.Source
	filter   deadletter.Filter
	scanning func(reason string)
	progress func(done, of uint64)

	all *book // nil while the index answers
}

// read returns what came of letters, which are in the order of their numbers.
func (r *letterReader) read(ctx context.Context, some []hashedLetter) ([]Letter, error) {
	if len(some) == 0 {
		return nil, nil
	}
	b := r.all
	if b == nil {
		var reason, err error
		if b, reason, err = r.readFound(ctx, some); err != nil {
			return nil, err
		}
		if reason != nil {
			if r.scanning != nil {
				r.scanning(reason.Error())
			}
			if b, err = readBook(ctx, r.js, r.source, r.filter, r.progress); err != nil {
				return nil, err
			}
			r.all = b
		}
	}
	letters := make([]Letter, len(some))
	for i, l := range some {
		letters[i] = Letter{Letter: l.Letter, State: LetterOpen} // when it has expired meanwhile
		if at, ok := b.find(l.Number); ok {
			letters[i] = *b.letters[at]
		}
	}
	return letters, nil
}

// readFound reads what came of letters where the index says. The reason says why the index does not tell all.
func (r *letterReader) readFound(ctx context.Context, some []hashedLetter) (b *book, reason, err error) {
	ids := map[string]bool{}
	for _, l := range some {
		ids[l.WebhookID] = true
	}
	events, letters, reason := inspect.FindPlaces(ctx, r.js.Conn(), r.source, slices.Collect(maps.Keys(ids)))
	if reason != nil {
		return nil, reason, ctx.Err()
	}
	b = &book{js: r.js, source: r.source, events: map[eventKey][]*deadEvent{}}
	if reason, err = r.readOthers(ctx, b, some, letters); reason == nil && err == nil {
		reason, err = r.readRedrives(ctx, b, events)
	}
	if reason != nil || err != nil {
		return nil, reason, err
	}
	return b, nil, b.judge(ctx)
}

// readOthers adds letters and the others of their events, which may be at places of the archive or are newer than the index knows.
func (r *letterReader) readOthers(ctx context.Context, b *book, some []hashedLetter, p inspect.Places) (reason, err error) {
	info, reason, err := r.open(ctx, r.source.DeadStream(), p)
	if reason != nil || err != nil {
		return reason, err
	}
	if p.From > max(info.State.FirstSeq, 1) {
		return errors.New("the index of headgate watch does not go back to the oldest dead letter"), nil
	}
	all, keys, known := slices.Clone(some), map[eventKey]bool{}, map[uint64]bool{}
	for _, l := range some {
		keys[keyOf(l.Letter)], known[l.Number] = true, true
	}
	keep := func(m *jetstream.RawStreamMsg) bool {
		if l := deadletter.Open(r.source, m); keys[keyOf(l)] && !known[l.Number] {
			known[l.Number], all = true, append(all, hashLetter(l))
		}
		return true
	}
	others := slices.DeleteFunc(p.Sequences, func(n uint64) bool { return known[n] })
	if err := stream.GetAll(ctx, r.js, r.source.DeadStream(), others, keep); err != nil {
		return nil, err
	}
	newer := stream.ReadOptions{After: p.Through, Created: info.Created}
	_, err = stream.Read(ctx, r.js, r.source.DeadStream(), newer, func(m *jetstream.RawStreamMsg) error {
		keep(m)
		return nil
	})
	slices.SortFunc(all, func(x, y hashedLetter) int { return cmp.Compare(x.Number, y.Number) })
	for _, l := range all {
		b.add(l)
	}
	return nil, err
}

// readRedrives adds the redrives of the letters' events, which may be at places of the source's stream, or are older or newer than the
// index knows.
func (r *letterReader) readRedrives(ctx context.Context, b *book, p inspect.Places) (reason, err error) {
	info, reason, err := r.open(ctx, r.source.Stream(), p)
	if reason != nil || err != nil {
		return reason, err
	}
	events := map[uint64]bool{} // are no redrives of themselves
	for _, l := range b.letters {
		events[l.Sequence] = l.Buried.After(info.Created)
	}
	others := slices.DeleteFunc(p.Sequences, func(n uint64) bool { return events[n] })
	if err := stream.GetAll(ctx, r.js, r.source.Stream(), others, func(m *jetstream.RawStreamMsg) bool {
		b.addRedrive(m)
		return true
	}); err != nil {
		return nil, err
	}
	rest := stream.ReadOptions{Created: info.Created, Filters: []string{r.source.RedriveFilter("*")}}
	older, newer := rest, rest
	older.Since, older.Through, newer.After = b.since(), p.From-1, p.Through
	if p.From > max(info.State.FirstSeq, 1) && (p.Oldest.IsZero() || !p.Oldest.Before(older.Since)) {
		if err := b.readRedrives(ctx, older); err != nil {
			return nil, err
		}
	}
	return nil, b.readRedrives(ctx, newer)
}

// open returns the state of a stream. The reason says why the index does not know it.
func (r *letterReader) open(ctx context.Context, name string, p inspect.Places) (info *jetstream.StreamInfo, reason, err error) {
	st, err := r.js.Stream(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("stream %s: %w", name, err)
	}
	info = st.CachedInfo()
	if !p.Created.Equal(info.Created) || p.Through > info.State.LastSeq {
		reason = errors.New("the index of headgate watch is that of an earlier stream")
	}
	return info, reason, nil
}
