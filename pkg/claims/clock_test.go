package claims

import (
	"testing"
	"time"
)

func TestClock_BelievesNoClockButTheServers(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name                 string
		writerAhead, usAhead time.Duration
		wait                 time.Duration // until the record's Next, by our clock; it is a minute by the writer's
	}{
		{"equal clocks", 0, 0, time.Minute},
		{"a writer that was ahead", time.Hour, 0, time.Minute},
		{"a writer that was behind", -time.Hour, 0, time.Minute},
		{"both ahead", time.Hour, time.Hour, time.Minute},
		{"we are ahead", 0, time.Hour, time.Minute},
		{"a difference that the skew covers", 4 * time.Second, 0, time.Minute + 4*time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := clock{real: true}
			c.behind.Store(int64(-tt.usAhead))
			writer, us := now.Add(tt.writerAhead), now.Add(tt.usAhead)
			r := c.stamp(Record{State: Waiting, Next: writer.Add(time.Minute)}, writer)
			if got := c.local(r, now).Next.Sub(us); got != tt.wait {
				t.Errorf("the next attempt is due in %v; want %v", got, tt.wait)
			}
		})
	}
}
