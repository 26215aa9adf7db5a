package watchdog

import (
	"cmp"
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// monday is 00:00 UTC on a Monday.
var monday = time.Date(2026, 2, 2, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// A rhythm says whether an event comes at a time.
type rhythm func(time.Time) bool

// office is a type that comes on working days from 8 to 18 o'clock, in every look.
func office(t time.Time) bool {
	return t.Weekday() != time.Saturday && t.Weekday() != time.Sunday && t.Hour() >= 8 && t.Hour() < 18
}

// run looks every five minutes from one time to another, and returns when silence was raised, and the zero time when it was not.
func (l *learned) run(from, to time.Time, comes rhythm) (raised time.Time) {
	last := cmp.Or(l.Last, from) // a type is known by its first event
	for now := from.Add(LookEvery); !now.After(to); now = now.Add(LookEvery) {
		if at := now.Add(-time.Minute); comes(at) {
			last = at
		}
		if !l.look(now, last) {
			return raised
		}
		if raised.IsZero() {
			raised = l.Silent
		}
	}
	return raised
}

func never(time.Time) bool { return false }

func TestLearned_KnowsNightsAndWeekends(t *testing.T) {
	t.Parallel()
	l := new(learned)
	if raised := l.run(monday, monday.Add(28*day), office); !raised.IsZero() {
		t.Fatalf("silence is raised at %v, and the type came as always", raised)
	}
	for _, tt := range []struct {
		name        string
		from        time.Duration // after the four weeks
		quiet, late time.Duration // not raised before, raised until
	}{
		{"on Saturday", 5 * day, 2*day + 8*time.Hour + 45*time.Minute, 2*day + 10*time.Hour + 30*time.Minute},
		{"on Tuesday at 10 o'clock", day + 10*time.Hour, 45 * time.Minute, time.Hour},
		{"on Tuesday night", day + 20*time.Hour, 12 * time.Hour, 16 * time.Hour},
	} {
		copied := *l
		from := monday.Add(28 * day)
		copied.run(from, from.Add(tt.from), office)
		if raised := copied.run(from.Add(tt.from), from.Add(tt.from+tt.quiet), never); !raised.IsZero() {
			t.Errorf("%s: raised at %v, within %v", tt.name, raised, tt.quiet)
		}
		if raised := copied.run(from.Add(tt.from+tt.quiet), from.Add(tt.from+tt.late), never); raised.IsZero() {
			t.Errorf("%s: not raised within %v", tt.name, tt.late)
		}
		back := from.Add(tt.from + tt.late)
		copied.run(back, back.Add(LookEvery), func(time.Time) bool { return true })
		if !copied.Silent.IsZero() {
			t.Errorf("%s: still raised when the type has come again", tt.name)
		}
	}
}

func TestLearned_RaisesNothingInTheFirstTwoWeeks(t *testing.T) {
	t.Parallel()
	l := new(learned)
	l.run(monday, monday.Add(10*day), func(time.Time) bool { return true })
	if raised := l.run(monday.Add(10*day), monday.Add(14*day), never); !raised.IsZero() {
		t.Errorf("raised at %v, before two weeks were learned", raised)
	}
}

// A nightly batch that comes an hour late or early, as on the days on which clocks change, is not missing, and one that does not
// come at all is noticed on the next night, and a weekly one in the week after.
func TestLearned_BatchMayMoveByAnHour(t *testing.T) {
	t.Parallel()
	nightly := func(hour int) rhythm { return func(t time.Time) bool { return t.Hour() == hour } }
	weekly := func(hour int) rhythm {
		return func(t time.Time) bool { return t.Weekday() == time.Wednesday && t.Hour() == hour }
	}
	for _, tt := range []struct {
		name string
		of   func(hour int) rhythm
		late time.Duration // after the batch that is missing
	}{
		{"nightly", nightly, 3 * time.Hour},
		{"weekly", weekly, 3 * time.Hour},
	} {
		l := new(learned)
		from := monday.Add(42 * day)
		if raised := l.run(monday, from, tt.of(3)); !raised.IsZero() {
			t.Errorf("%s: raised at %v, and it came as always", tt.name, raised)
		}
		for _, hour := range []int{2, 4} {
			copied := *l
			if raised := copied.run(from, from.Add(28*day), tt.of(hour)); !raised.IsZero() {
				t.Errorf("%s: raised at %v, and it came at %d and not at 3 o'clock", tt.name, raised, hour)
			}
		}
		copied := *l
		missing := from.Add(2*day + 3*time.Hour) // a Wednesday
		copied.run(from, missing, tt.of(3))
		if raised := copied.run(missing, missing.Add(tt.late), never); raised.IsZero() {
			t.Errorf("%s: not raised within %v", tt.name, tt.late)
		}
	}
}

// Days with hours that move as a whole, at the end of summer time.
func TestLearned_OfficeHoursMayMoveByAnHour(t *testing.T) {
	t.Parallel()
	l := new(learned)
	l.run(monday, monday.Add(28*day), office)
	for _, shift := range []time.Duration{time.Hour, -time.Hour} {
		copied := *l
		from := monday.Add(28 * day)
		if raised := copied.run(from, from.Add(28*day), func(t time.Time) bool { return office(t.Add(shift)) }); !raised.IsZero() {
			t.Errorf("moved by %v: raised at %v", shift, raised)
		}
	}
}

// A type that has ended is raised for four weeks at the most.
func TestLearned_TypeEnds(t *testing.T) {
	t.Parallel()
	l := new(learned)
	end := monday.Add(21 * day)
	l.run(monday, end, office)
	l.run(end, end.Add(27*day), never)
	if l.Silent.IsZero() {
		t.Error("not raised after 27 days")
	}
	last := l.Last
	if l.look(end.Add(29*day), last) {
		t.Error("it has not ended after 29 days")
	}
}

// What is learned survives a restart and pauses, and a pause alone raises nothing.
func TestLearned_SurvivesRestartsAndPauses(t *testing.T) {
	t.Parallel()
	l := new(learned)
	l.run(monday, monday.Add(15*day), office)
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	again := new(learned)
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	if len(text) > 3000 {
		t.Errorf("a record has %d bytes; want no more than 3,000", len(text))
	}
	// Nobody looks until Thursday noon, and the type has come meanwhile.
	thursday := monday.Add(17*day + 12*time.Hour)
	again.look(thursday, thursday.Add(-time.Minute))
	if !again.Silent.IsZero() || again.Looks != l.Looks {
		t.Errorf("after a pause raised %v, %d looks learned; want %d and none", again.Silent, again.Looks, l.Looks)
	}
	if raised := again.run(thursday, thursday.Add(time.Hour), never); raised.IsZero() {
		t.Error("not raised within an hour of silence after the restart")
	}
	// Nobody looks, and the type has not come.
	asleep := *l
	asleep.look(thursday, l.Last)
	if asleep.Silent.IsZero() {
		t.Error("a silence during a pause is not raised when the pause ends")
	}
}

// An outage of a day does not make the next one wait for more than twice the limit.
func TestLearned_RepeatedSilenceIsRaisedAgain(t *testing.T) {
	t.Parallel()
	l := new(learned)
	at := monday.Add(28 * day)
	l.run(monday, at, office)
	l.run(at, at.Add(day), never)
	l.run(at.Add(day), at.Add(day+10*time.Hour), office)
	if raised := l.run(at.Add(day+10*time.Hour), at.Add(day+13*time.Hour), never); raised.IsZero() {
		t.Error("the second silence is not raised within three hours")
	}
}

// Of types that come at random, at any rate, with quiet nights or in bursts, silence is raised in no more than a few of 1,000 weeks.
func TestLearned_RarelyRaisesWhatComesAtRandom(t *testing.T) {
	t.Parallel()
	const weeks = 12
	raises, total := 0, 0
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 1))
		rate := []float64{0.002, 0.01, 0.05, 0.3, 0.9}[seed%5]
		quiet, burst := seed%2 == 0, seed%3 == 0
		left := 0
		l := new(learned)
		raised := l.run(monday, monday.Add(weeks*7*day), func(t time.Time) bool {
			if left > 0 {
				left--
				return true
			}
			if quiet && (t.Hour() < 6 || t.Weekday() == time.Sunday) || random.Float64() >= rate {
				return false
			}
			if burst {
				left = 6
			}
			return true
		})
		if total += weeks; !raised.IsZero() {
			raises++
			t.Logf("rate %v, quiet %t, burst %t: %v", rate, quiet, burst, raised)
		}
	}
	if raises > 4 {
		t.Errorf("%d silences in %d weeks of types that came as always", raises, total)
	}
}

// However a type comes, what is missed in a time is no more than the looks in it, and never less later.
func TestLearned_MissedIsBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		l := new(learned)
		for h := range l.Of {
			l.Of[h] = memory
			l.Seen[h] = rapid.Float64Range(0, memory).Draw(rt, "seen")
		}
		from := monday.Add(time.Duration(rapid.Int64Range(0, int64(7*day)).Draw(rt, "from")))
		long := time.Duration(rapid.Int64Range(0, int64(10*day)).Draw(rt, "long"))
		more := time.Duration(rapid.Int64Range(0, int64(day)).Draw(rt, "more"))
		l.miss(from, from.Add(long))
		one := l.Missed.least()
		l.miss(from.Add(long), from.Add(long+more))
		both := l.Missed.least()
		if one < 0 || one > float64(long)/float64(LookEvery)+1e-9 || both < one-1e-9 {
			rt.Errorf("%v has %v, and %v more %v", long, one, more, both)
		}
	})
}
