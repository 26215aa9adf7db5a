package load

import (
	"cmp"
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Pace is how a load without feedback arrives.
type Pace int

// Requests of strangers arrive by Poisson: at any moment, however long the last one is ago.
const (
	Poisson Pace = iota
	Constant
)

// patience is how long an answer may take after the time of the load is over. Codat waits 15 s.
const patience = 20 * time.Second

// Result is what became of a load.
type Result struct {
	Took      time.Duration
	Answers   map[int]int     // how many answers there were of each status
	Broken    int             // requests without an answer
	Latencies []time.Duration // of the answers, ascending
	Err       error           // the first reason for a request without an answer
}

// Accepted is how many requests were answered 2xx.
func (r Result) Accepted() int {
	n := 0
	for status, count := range r.Answers {
		if status/100 == 2 {
			n += count
		}
	}
	return n
}

// Refused is how many requests were not answered 2xx, or not at all.
func (r Result) Refused() int {
	n := r.Broken
	for status, count := range r.Answers {
		if status/100 != 2 {
			n += count
		}
	}
	return n
}

// Rate is how many requests were answered 2xx in a second.
func (r Result) Rate() float64 { return float64(r.Accepted()) / r.Took.Seconds() }

// Closed sends over each connection the next request as soon as the last one is answered: what comes out is the most
// that the server can do. It ends after d, or when the batch is used up.
func Closed(ctx context.Context, conns []*Conn, b *Batch, d time.Duration) Result {
	return closed(ctx, conns, b, d, b.Len())
}

// Repeat is Closed with a batch that begins again when it is used up.
func Repeat(ctx context.Context, conns []*Conn, b *Batch, d time.Duration) Result {
	return closed(ctx, conns, b, d, int(^uint(0)>>1))
}

func closed(ctx context.Context, conns []*Conn, b *Batch, d time.Duration, most int) Result {
	var next atomic.Int64
	begin := time.Now()
	return each(conns, begin, d, func(r *recorder, c *Conn) {
		for ctx.Err() == nil {
			now := time.Now()
			i := int(next.Add(1)) - 1
			if i >= most || now.Sub(begin) >= d {
				return
			}
			r.do(c, b.Request(i%b.Len()), now)
		}
	})
}

// Open sends requests at a rate, whether or not those before them are answered; when no connection is free, they wait.
// The latency of a request counts from when it should have started. It ends after d, or when the batch is used up.
func Open(ctx context.Context, conns []*Conn, b *Batch, rate float64, pace Pace, d time.Duration) Result {
	type arrival struct {
		number int
		at     time.Time
	}
	due := make(chan arrival, b.Len())
	begin := time.Now()
	var clock sync.WaitGroup
	defer clock.Wait()
	clock.Go(func() {
		defer close(due)
		// The runtime's timers are late by up to a millisecond; the system's are not, on a thread that asks for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		precise()
		at := begin
		for i := range b.Len() {
			step := 1 / rate
			if pace == Poisson {
				step *= rand.ExpFloat64()
			}
			at = at.Add(time.Duration(step * float64(time.Second)))
			if at.Sub(begin) >= d || ctx.Err() != nil {
				return
			}
			sleepUntil(at)
			due <- arrival{i, at}
		}
	})
	return each(conns, begin, d, func(r *recorder, c *Conn) {
		for a := range due {
			r.do(c, b.Request(a.number), a.at)
		}
	})
}

// precise makes sleeps of this thread exact to the microsecond; where that is not allowed they are exact to 50.
func precise() {
	const setTimerSlack, nanosecond = 29, 1
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, nanosecond, 0)
}

func sleepUntil(at time.Time) {
	for {
		left := time.Until(at)
		if left <= 0 {
			return
		}
		t := syscall.NsecToTimespec(int64(left))
		_ = syscall.Nanosleep(&t, nil) // interrupted by a signal: there is still time left
	}
}

// recorder is what one connection saw.
type recorder struct {
	answers   map[int]int
	broken    int
	latencies []time.Duration
	err       error
	last      time.Time
}

func (r *recorder) do(c *Conn, request []byte, began time.Time) {
	status, err := c.Do(request)
	r.last = time.Now()
	if err != nil {
		r.broken++
		r.err = cmp.Or(r.err, err)
		return
	}
	r.answers[status]++
	r.latencies = append(r.latencies, r.last.Sub(began))
}

// each runs a load over each connection, and puts together what they saw.
func each(conns []*Conn, begin time.Time, d time.Duration, run func(*recorder, *Conn)) Result {
	recorders := make([]recorder, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		r := &recorders[i]
		r.answers = make(map[int]int)
		wg.Go(func() {
			if r.err = c.limit(begin.Add(d + patience)); r.err == nil {
				run(r, c)
			}
		})
	}
	wg.Wait()
	all := Result{Answers: make(map[int]int)}
	for i := range recorders {
		r := &recorders[i]
		for status, n := range r.answers {
			all.Answers[status] += n
		}
		all.Broken += r.broken
		all.Latencies = append(all.Latencies, r.latencies...)
		all.Err = cmp.Or(all.Err, r.err)
		all.Took = max(all.Took, r.last.Sub(begin))
	}
	slices.Sort(all.Latencies)
	return all
}
