package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"
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
	Took      time.Duration   // until the last answer
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
	return drive(ctx, conns, b, b.Len(), d, func(time.Time) time.Time { return time.Time{} })
}

// Repeat is Closed with a batch that begins again when it is used up.
func Repeat(ctx context.Context, conns []*Conn, b *Batch, d time.Duration) Result {
	return drive(ctx, conns, b, math.MaxInt, d, func(time.Time) time.Time { return time.Time{} })
}

// Open sends requests at a rate, whether or not those before them are answered; when no connection is free, they wait.
// The latency of a request counts from when it should have started. It ends after d, or when the batch is used up.
func Open(ctx context.Context, conns []*Conn, b *Batch, rate float64, pace Pace, d time.Duration) Result {
	return drive(ctx, conns, b, b.Len(), d, func(last time.Time) time.Time {
		step := 1 / rate
		if pace == Poisson {
			step *= rand.ExpFloat64()
		}
		return last.Add(time.Duration(step * float64(time.Second)))
	})
}

// A driver is one load while it runs.
type driver struct {
	Result
	poll    int              // the kernel's list of connections
	conns   map[int]*running // by their number in the kernel
	free    []*running
	waiting int // requests on the way
	last    time.Time
}

// A running connection is free, or has a request on the way.
type running struct {
	*Conn
	request []byte // nil when it is free
	began   time.Time
}

// drive sends at most n requests within d. next is when the one after that of last is due, the zero time when it is as
// soon as a connection is free.
func drive(ctx context.Context, conns []*Conn, b *Batch, n int, d time.Duration, next func(last time.Time) time.Time) Result {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := &driver{Result: Result{Answers: make(map[int]int), Latencies: make([]time.Duration, 0, min(n, 1<<20))}}
	if err := l.prepare(conns); err != nil {
		l.Err = err
		return l.Result
	}
	defer l.end()

	begin := time.Now()
	l.last = begin
	due := next(begin)
	sent := 0
	for {
		now := time.Now()
		over := ctx.Err() != nil || now.Sub(begin) >= d || due.Sub(begin) >= d
		for len(l.free) > 0 && !over && sent < n && !due.After(now) {
			start := due
			if start.IsZero() {
				start = now
			}
			l.begin(b.Request(sent%b.Len()), start)
			sent++
			due = next(due)
			now = time.Now()
		}
		over = over || sent == n
		if over && l.waiting == 0 {
			break
		}
		if now.Sub(begin) > d+patience {
			l.lose(fmt.Errorf("no answer within %s", patience))
			break
		}
		pause := 100 * time.Millisecond // until ctx is asked again
		if len(l.free) > 0 && !over {
			pause = min(pause, max(due.Sub(now), 0))
		}
		if err := l.wait(pause); err != nil {
			l.lose(err)
			break
		}
	}
	slices.Sort(l.Latencies)
	l.Took = l.last.Sub(begin)
	return l.Result
}

// prepare lists the connections that there are. Those to come are listed as they are opened.
func (l *driver) prepare(conns []*Conn) (err error) {
	if l.poll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	// Sleeps of this thread are exact to the microsecond from now on; where that is not allowed, to 50.
	const setTimerSlack, nanosecond = 29, 1
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, nanosecond, 0)
	l.conns = make(map[int]*running, len(conns))
	for _, c := range conns {
		r := &running{Conn: c}
		c.rested = true
		l.free = append(l.free, r)
		if c.fd < 0 {
			continue
		}
		l.conns[c.fd] = r
		if err := syscall.EpollCtl(l.poll, syscall.EPOLL_CTL_ADD, c.fd, events(c.fd)); err != nil {
			return errors.Join(err, syscall.Close(l.poll))
		}
	}
	return nil
}

// end forgets the list, and with it all that was in it. Connections stay open unless an answer is still to come.
func (l *driver) end() {
	for _, r := range l.conns {
		if r.request != nil {
			r.drop()
		}
	}
	_ = syscall.Close(l.poll) // it has nothing to lose
}

// begin sends a request over a free connection.
func (l *driver) begin(request []byte, start time.Time) {
	r := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	r.request, r.began = request, start
	l.waiting++
	l.send(r)
}

func (l *driver) send(r *running) {
	if r.fd < 0 {
		if err := r.open(l.poll); err != nil {
			l.finish(r, answer{err: err})
			return
		}
		l.conns[r.fd] = r
		r.rested = false
	}
	r.out = r.request
	// When this fails the answer may be there all the same: a server may answer, and close, before it has read a body.
	if r.Conn.send() != nil {
		r.out = nil
	}
}

// finish counts what became of a request.
func (l *driver) finish(r *running, a answer) {
	if !a.keep || r.once {
		delete(l.conns, r.fd)
		r.drop()
	}
	if a.status == 0 && r.rested { // as any client would that finds its connection closed
		r.rested = false
		l.send(r)
		return
	}
	r.rested = false
	if len(r.out) > 0 { // answered before all was sent: the rest would be taken for the next request
		delete(l.conns, r.fd)
		r.drop()
	}
	l.last = time.Now()
	if a.status == 0 {
		l.Broken++
		if l.Err == nil {
			l.Err = a.err
		}
	} else {
		l.Answers[a.status]++
		l.Latencies = append(l.Latencies, l.last.Sub(r.began))
	}
	r.request = nil
	l.waiting--
	l.free = append(l.free, r)
}

// lose gives up what is still on the way.
func (l *driver) lose(err error) {
	l.Broken += l.waiting
	if l.Err == nil {
		l.Err = err
	}
}

// wait waits for something to happen to a connection, for no longer than pause, and sees to it.
func (l *driver) wait(pause time.Duration) error {
	const epollPwait2 = 441 // the one that counts in nanoseconds, of Linux 5.11; its number is the same everywhere
	var happened [128]syscall.EpollEvent
	limit := syscall.NsecToTimespec(int64(pause))
	n, _, errno := syscall.Syscall6(epollPwait2, uintptr(l.poll), uintptr(unsafe.Pointer(&happened[0])), uintptr(len(happened)),
		uintptr(unsafe.Pointer(&limit)), 0, 0)
	switch errno {
	case 0:
	case syscall.EINTR:
		return nil
	default:
		return fmt.Errorf("wait for answers, for which Linux 5.11 is needed: %w", errno)
	}
	for _, e := range happened[:n] {
		r := l.conns[int(e.Fd)]
		if r == nil {
			continue
		}
		if r.request == nil {
			if e.Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
				delete(l.conns, r.fd)
				r.drop()
			}
			continue
		}
		if len(r.out) > 0 && r.Conn.send() != nil {
			r.out = nil
		}
		if a, done := r.receive(); done {
			l.finish(r, a)
		}
	}
	return nil
}
