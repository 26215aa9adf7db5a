package watchdog

import (
	"encoding/json"
	"math"
	"slices"
	"time"
)

const (
	// LookEvery is the time between two looks.
	LookEvery = 5 * time.Minute
	looksHour = float64(time.Hour / LookEvery)
	looksWeek = int(7 * 24 * time.Hour / LookEvery)

	// memory is over how many looks at an hour of the week its rate is an average: those of four weeks.
	memory = 4 * looksHour
	// openHours is after how many hours an hour is learned.
	openHours = 3
	// enough is how many looks with an event must have been expected before silence is raised. Of independent looks, none of
	// ten has an event in 5 of 100,000 cases (exp(-10)).
	enough = 10
	// longer is by how much the silence must exceed the longest one that has ended by itself, because looks are not
	// independent: a batch comes late as a whole.
	longer = 3
	// endedAfter is how long a silence is raised before the type counts as ended.
	endedAfter = 28 * 24 * time.Hour
)

// hours has a number for each hour of the week in UTC, from Sunday at 00:00. In JSON it has three decimals.
type hours [7 * 24]float64

func (h hours) MarshalJSON() ([]byte, error) {
	rounded := make([]float64, len(h))
	for i, x := range h {
		rounded[i] = math.Round(x*1000) / 1000
	}
	return json.Marshal(rounded)
}

func hourOf(t time.Time) int {
	t = t.UTC()
	return int(t.Weekday())*24 + t.Hour()
}

// learned is what is known of how often a type comes. It counts looks that find a new event, and not events, so that a batch of
// a thousand weighs as much as one. Its methods are pure: the time is an argument.
type learned struct {
	Last   time.Time `json:"last"`            // when the newest event was stored
	Looked time.Time `json:"looked"`          // the last look
	Looks  int       `json:"looks"`           // looks that were learned from
	Of     hours     `json:"of"`              // looks in each hour of the week, of which the last weeks weigh most
	Seen   hours     `json:"seen"`            // those that found a new event
	Open   []hour    `json:"open,omitempty"`  // the last hours, which are in neither yet
	Missed missed    `json:"missed"`          // since Last
	Vain   float64   `json:"vain"`            // the most that was missed before an event came nevertheless
	Silent time.Time `json:"silent,omitzero"` // since when silence is raised
}

// hour has the looks in one hour.
type hour struct {
	Begin time.Time `json:"begin"`
	Of    float64   `json:"of"`
	Seen  float64   `json:"seen"`
}

// missed is how many looks should have found an event by what was learned, counted in three ways: at the hours at which the type
// comes, an hour earlier, and an hour later from some time on. What comes an hour early or late, as on the days on which clocks
// change, is not missing: the least of the three counts.
type missed struct {
	Exact float64 `json:"exact"`
	Early float64 `json:"early"`
	Late  float64 `json:"late"`
}

func (m missed) least() float64 { return min(m.Exact, m.Early, m.Late) }

// look learns from a look at now, at which the newest event was stored at last. It returns false when the type has ended.
func (l *learned) look(now, last time.Time) bool {
	counted := l.Looked // what was missed before is counted
	if l.Last.After(counted) {
		counted = l.Last
	}
	fresh := last.After(l.Last)
	if fresh {
		if l.ready() && now.Sub(l.Looked) <= 2*LookEvery { // in a pause, others may have come before
			l.miss(counted, last)
			// A silence that was raised counts as no longer than what raised it, so that an outage of days does not make the
			// next one be raised after days.
			l.Vain = max(l.Vain, min(l.Missed.least(), l.limit()))
		}
		l.Last, l.Silent, l.Missed = last, time.Time{}, missed{}
		counted = last
	}
	if l.ready() {
		l.miss(counted, now)
	}
	l.learn(now, fresh)
	l.Looked = now
	if l.Silent.IsZero() && l.raises() && l.Missed.least() >= l.limit() {
		l.Silent = now
	}
	return now.Sub(l.Last) < endedAfter
}

// learn counts a look. One after a pause says nothing about the hours between.
func (l *learned) learn(now time.Time, fresh bool) {
	if since := now.Sub(l.Looked); since <= LookEvery/2 || since > 2*LookEvery {
		return
	}
	begin := now.Add(-LookEvery / 2).Truncate(time.Hour)
	if n := len(l.Open); n == 0 || !l.Open[n-1].Begin.Equal(begin) {
		l.Open = append(slices.Clone(l.Open), hour{Begin: begin})
	}
	open := &l.Open[len(l.Open)-1]
	open.Of++
	if fresh {
		open.Seen++
	}
	// A silence does not lower the rates by which it is measured.
	for ; len(l.Open) > openHours; l.Open = l.Open[1:] {
		h := hourOf(l.Open[0].Begin)
		forget := math.Pow(1-1/memory, l.Open[0].Of)
		l.Of[h] = l.Of[h]*forget + l.Open[0].Of
		l.Seen[h] = l.Seen[h]*forget + l.Open[0].Seen
	}
	l.Looks++
	l.Vain *= math.Exp2(-1 / float64(4*looksWeek)) // half of it is forgotten in four weeks
}

// ready reports whether every hour of a week has been learned from, so that it is known what is missed, and raises whether it has
// been for a week in which it was learned how much is missed although nothing is wrong.
func (l *learned) ready() bool  { return l.Looks >= looksWeek }
func (l *learned) raises() bool { return l.Looks >= 2*looksWeek }

// limit is how much must have been missed before silence is raised.
func (l *learned) limit() float64 { return max(enough, longer*l.Vain) }

// miss adds what is missed between two times in which no event came.
func (l *learned) miss(from, to time.Time) {
	for t := from; t.Before(to); {
		next := t.Truncate(time.Hour).Add(time.Hour)
		if next.After(to) {
			next = to
		}
		looks := float64(next.Sub(t)) / float64(LookEvery)
		m := &l.Missed
		m.Late = min(m.Late, m.Exact) + looks*l.rate(t.Add(-time.Hour))
		m.Exact += looks * l.rate(t)
		m.Early += looks * l.rate(t.Add(time.Hour))
		t = next
	}
}

// rate is the part of the looks in an hour of the week that found a new event, and 0 of an hour that was not seen yet.
func (l *learned) rate(t time.Time) float64 {
	h := hourOf(t)
	if l.Of[h] == 0 {
		return 0
	}
	return l.Seen[h] / l.Of[h]
}
