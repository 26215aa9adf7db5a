package operator

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// givenPerRecord is how many dead letters one record names at most. Their numbers are 200 kB at worst.
const givenPerRecord = 10_000

// A givenLog notes which dead letters a redrive gave, for its records.
type givenLog struct {
	operator *Operator
	entry    Entry
	numbers  []uint64 // that no record names yet
}

// add notes one number, and stores a record when there are many.
func (l *givenLog) add(ctx context.Context, number uint64) error {
	l.numbers = append(l.numbers, number)
	if len(l.numbers) < givenPerRecord {
		return nil
	}
	e := l.entry
	e.Step, e.Given, e.Letters = StepGiven, len(l.numbers), joinNumbers(l.numbers)
	l.numbers = nil
	return l.operator.Record(ctx, e)
}

// joinNumbers writes numbers in order as 1-3,7.
func joinNumbers(numbers []uint64) string {
	sorted := slices.Clone(numbers)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	var b strings.Builder
	for i := 0; i < len(sorted); {
		last := i
		for last+1 < len(sorted) && sorted[last+1] == sorted[last]+1 {
			last++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(sorted[i], 10))
		if last > i {
			b.WriteString("-" + strconv.FormatUint(sorted[last], 10))
		}
		i = last + 1
	}
	return b.String()
}

// splitNumbers calls each with the first and the last number of every range that joinNumbers wrote. It passes over what it
// cannot read.
func splitNumbers(s string, each func(first, last uint64)) {
	for part := range strings.SplitSeq(s, ",") {
		from, to, is := strings.Cut(part, "-")
		if !is {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			continue
		}
		if last, err := strconv.ParseUint(to, 10, 64); err == nil {
			each(first, last)
		}
	}
}

// longestRun is how long before a letter was stored a redrive may have begun that gives it.
const longestRun = 24 * time.Hour

// readRecords reads who gave which letters. A record names letters for longer than the source's stream has the redrive.
func (b *book) readRecords(ctx context.Context) error {
	byRedrive := map[string][]Entry{}
	o := stream.ReadOptions{Since: b.since().Add(-longestRun)}
	_, err := stream.Read(ctx, b.js, b.source.OperatorStream(), o, func(m *jetstream.RawStreamMsg) error {
		var e Entry
		if json.Unmarshal(m.Data, &e) != nil || e.Redrive == "" {
			return nil // of another action
		}
		e.At = m.Time
		splitNumbers(e.Letters, func(first, last uint64) { b.name(e, first, last) })
		e.Chosen, e.Letters = nil, ""
		byRedrive[e.Redrive] = append(byRedrive[e.Redrive], e)
		return nil
	})
	for _, events := range b.events {
		for _, e := range events {
			for _, g := range e.givings {
				g.sign(byRedrive[g.Redrive])
			}
		}
	}
	return err
}

// name notes a redrive of the letters from first to last. A record that is older than a letter is of an archive that was
// deleted since.
func (b *book) name(e Entry, first, last uint64) {
	for i, _ := b.find(first); i < len(b.letters) && b.letters[i].Number <= last; i++ {
		l := b.letters[i]
		if e.At.Before(l.Buried.Add(-clockSkew)) || l.Redrive == e.Redrive {
			continue
		}
		g := b.of(l).giving(e.Redrive)
		if g.At.IsZero() {
			g.At = e.At
		}
		g.named = max(g.named, l.Number)
	}
}

// of returns the event of a letter.
func (b *book) of(l *Letter) *deadEvent {
	for _, e := range b.events[keyOf(l.Letter)] {
		if slices.Contains(e.letters, l) {
			return e
		}
	}
	return nil
}

// sign sets who made a redrive: the last run of it that began before the event was given, and the first run when the clocks
// differ.
func (g *giving) sign(runs []Entry) {
	for i, e := range runs {
		if i > 0 && (e.Step != StepBegin || e.At.After(g.At.Add(time.Second))) {
			continue
		}
		g.By, g.Command = e.User+"@"+e.Host, e.Command
	}
}
