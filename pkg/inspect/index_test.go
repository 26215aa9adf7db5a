package inspect

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is added, and in whatever order, the index knows every message between from and through that has an id, and no other
// one but for equal hashes.
func TestIndex_KnowsWhatWasAdded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		stored := map[uint64]string{}
		// Sequences have gaps of up to four blocks: what is between was erased.
		gap := rapid.SampledFrom([]uint64{1, 1000, blockSize - 1, blockSize, 4 * blockSize}) // a range of numbers is mostly small ones
		at := func(sequence uint64) time.Time { return time.Unix(0, int64(sequence)) }
		last := rapid.SampledFrom([]uint64{0, 1, blockSize, 40 * blockSize}).Draw(t, "last")
		x := newIndex(rapid.SampledFrom([]int{1 << 10, 1 << 30}).Draw(t, "limit"))
		x.begin(last)
		through, from := last, last+1
		for range 60 {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				through += gap.Draw(t, "gap")
				stored[through] = ids.Draw(t, "id")
				x.addNewer(through, at(through), []string{stored[through], "", stored[through]})
			case 2, 3:
				size := min(gap.Draw(t, "range"), from-1)
				if size == 0 || x.state().Full {
					continue
				}
				// The range has a message at its beginning, and often one in a later block.
				var all []posting
				here := map[uint64]string{from - size: ids.Draw(t, "id")}
				here[from-size+min(gap.Draw(t, "place"), size-1)] = ids.Draw(t, "id")
				for sequence, id := range here {
					all = x.postings(all, sequence, at(sequence), []string{id})
				}
				if x.addOlder(from-size, at(from-size), all) {
					maps.Copy(stored, here)
				}
				from -= size
			default:
				x.trim(min(from+gap.Draw(t, "first"), through))
				from, _ = x.covers()
				maps.DeleteFunc(stored, func(sequence uint64, _ string) bool { return sequence < from })
			}
		}
		knows, end := x.covers()
		if end != through || knows < from && !x.state().Full {
			t.Fatalf("it knows all of %d to %d; want up to %d, and not before %d", knows, end, through, from)
		}
		if oldest := x.state().Oldest; !oldest.IsZero() && oldest.Before(at(knows)) {
			t.Fatalf("the oldest of its messages was stored at %d; want no time before that of message %d, from which on it knows all", oldest.UnixNano(), knows)
		}
		for _, id := range []string{"a", "b", "c", "d", "e"} {
			var want []uint64
			for sequence, of := range stored {
				if of == id && sequence >= knows {
					want = append(want, sequence)
				}
			}
			slices.Sort(want)
			slices.Reverse(want)
			if got := everySequence(x, id, rapid.IntRange(1, 9).Draw(t, "at least")); !slices.Equal(got, want) {
				t.Fatalf("of %s it knows %d; want %d", id, got, want)
			}
		}
	})
}

func everySequence(x *index, id string, atLeast int) (all []uint64) {
	before := uint64(1 << 62)
	for more := true; more; {
		var some []uint64
		if some, more = x.sequences(id, before, atLeast); len(some) > 0 {
			all, before = append(all, some...), some[len(some)-1]
		}
	}
	return all
}

func TestIndex_StaysWithinItsLimit(t *testing.T) {
	t.Parallel()
	const limit = MinIndexBytes
	x := newIndex(limit)
	x.begin(0)
	ids := make([]string, 5)
	for n := range uint64(12 * blockSize) {
		for i := range ids {
			ids[i] = string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(i)})
		}
		x.addNewer(n+1, time.Unix(int64(n+1), 0), ids)
		if s := x.state(); s.Bytes > limit {
			t.Fatalf("after %d messages it has %d bytes; want %d at most", n+1, s.Bytes, limit)
		}
	}
	s := x.state()
	if !s.Full || s.Events < 2*blockSize || !s.Oldest.Equal(time.Unix(int64(12*blockSize+1-s.Events), 0)) {
		t.Errorf("at the end it is %+v; want the newest messages that fit, and the time of the oldest of them", s)
	}
	if x.addOlder(1, time.Unix(1, 0), nil) {
		t.Error("addOlder() = true; want no older message in an index that has dropped some")
	}
}

// Many ids at once are at the places of each alone, in blocks that are sorted and in those that are not.
func TestIndex_FindsPlacesOfManyIDs(t *testing.T) {
	t.Parallel()
	x := newIndex(1 << 30)
	x.begin(0)
	for i := uint64(1); i <= 2*blockSize+9; i++ {
		x.addNewer(i, time.Now(), []string{fmt.Sprint(i % 1000), "all"})
	}
	var want []uint64
	ids := []string{"7", "999", "none", "7"}
	for _, id := range ids {
		some, _ := x.sequences(id, 1<<40, 1<<40)
		want = append(want, some...)
	}
	slices.Sort(want)
	if got := x.places(ids); len(got) < 262 || !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("places = %d sequences; want the %d of each alone, sorted", len(got), len(want))
	}
}
