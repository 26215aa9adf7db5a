package claims

import (
	"testing"
	"time"
)

// A bucket is another one when it was made at another time, or when it has lost sequences in two measurements in a row.
func TestSpace_NoticesAnotherBucket(t *testing.T) {
	t.Parallel()
	made, later := time.Unix(100, 0), time.Unix(200, 0)
	type measurement struct {
		made               time.Time
		last, acknowledged uint64
		lost               bool
	}
	for name, measurements := range map[string][]measurement{
		"the same bucket":                          {{made, 1, 0, false}, {made, 9, 5, false}, {made, 9, 9, false}},
		"made at another time":                     {{made, 9, 9, false}, {later, 1, 9, true}, {later, 1, 1, false}},
		"a server without its disk":                {{made, 9, 9, false}, {made, 1, 9, false}, {made, 2, 9, true}, {made, 3, 2, false}},
		"one answer of a server that led before":   {{made, 9, 9, false}, {made, 5, 9, false}, {made, 9, 9, false}, {made, 5, 9, false}},
		"what was written during the measurement ": {{made, 5, 5, false}, {made, 7, 5, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s space
			generation := 0
			for i, m := range measurements {
				if lost := s.compare(m.made, m.last, m.acknowledged); lost != m.lost {
					t.Errorf("measurement %d says that claims are lost: %t; want %t", i, lost, m.lost)
				}
				if m.lost {
					generation++
				}
			}
			if s.generation != generation {
				t.Errorf("generation %d; want %d", s.generation, generation)
			}
		})
	}
}
