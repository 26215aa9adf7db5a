package stream

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// What Provision makes where a plan is silent. The sizes are bounds that the server reserves, not space that it takes
// at once; together, with four workers, they stay under 6 GiB, which a laptop has.
const (
	// DefaultMaxAge is 14 days, in which Codat can replay an event, and 28 hours, over which it retries one, rounded
	// up to whole days.
	DefaultMaxAge = 16 * 24 * time.Hour
	// DefaultMaxBytes holds 100,000 events a day for 16 days at 1.3 KiB each with its headers. The server counts
	// them uncompressed.
	DefaultMaxBytes = 2 << 30
	// DefaultDeadMaxBytes holds some 100,000 dead letters. More of them wait for a decision, not for space.
	DefaultDeadMaxBytes = 256 << 20
	// DefaultParkedMaxBytes holds some 100,000 waiting events, five times what one consumer may have pending.
	DefaultParkedMaxBytes = 256 << 20
	// DefaultClaimsMaxBytes holds about 1.7 million claims of 300 bytes: what one worker claims in 23 days at 70,000
	// events a day. A full bucket stops its worker and loses nothing.
	DefaultClaimsMaxBytes = 512 << 20
	// DefaultStateMaxBytes holds some 100,000 entries of 1 KiB.
	DefaultStateMaxBytes = 128 << 20

	// DefaultAckWait is twice the default time for one attempt.
	DefaultAckWait = time.Minute
	// DefaultMaxAckPending leaves room for the short waits of all replicas; long ones are parked elsewhere.
	DefaultMaxAckPending = 5000
)

const (
	deadMaxAge       = 90 * 24 * time.Hour  // the archive outlives every retry and most holidays
	operatorMaxAge   = 365 * 24 * time.Hour // a year, as auditors ask
	operatorMaxBytes = 64 << 20
	claimsGrace      = 7 * 24 * time.Hour // a claim outlives its event, however late that is settled
	parkedWindow     = time.Hour          // a crash between parking and noting it is repeated within it
	workersTTL       = time.Minute
	workersMaxBytes  = 16 << 20
	parkedPending    = 20000 // 7 % of a core, measured
	maxWaiting       = 2048  // pulls; it cannot be raised later
)

// Plan says what must be in place for a source. Its zero values mean: the default where it is made now, and what is
// there already where it exists, so that a limit which an operator raised stays raised.
type Plan struct {
	Source   Source
	Replicas int // copies of every stream and bucket: 1, 3 or 5

	MaxAge         time.Duration // of the events, and the window in which an id is known; DefaultMaxAge
	MaxBytes       int64         // of the events; DefaultMaxBytes
	DeadMaxBytes   int64         // of the dead letters; DefaultDeadMaxBytes
	ParkedMaxBytes int64         // of the parked events; DefaultParkedMaxBytes
	ClaimsMaxBytes int64         // of the claims of each worker; DefaultClaimsMaxBytes
	StateMaxBytes  int64         // of each state; DefaultStateMaxBytes

	Workers []WorkerPlan

	// AllowLoss lets Provision do what it otherwise refuses because events could be lost by it.
	AllowLoss bool
}

// WorkerPlan says what must be in place for one worker.
type WorkerPlan struct {
	Name          string
	Types         []string      // names or patterns of the events that it handles
	State         []string      // names of the states that it writes
	AckWait       time.Duration // until a delivery without a sign of life is given to another; DefaultAckWait
	MaxAckPending int           // deliveries that are out at once, over all replicas; DefaultMaxAckPending
	Begin         Begin         // where a new worker begins; an existing one goes on where it is
}

// Begin says with which events a new worker begins. The zero value is BeginNew.
type Begin struct {
	all  bool
	from time.Time
}

// BeginNew begins with the first event that is stored after the worker's consumer was made.
func BeginNew() Begin { return Begin{} }

// BeginAll begins with the oldest event that the stream still has.
func BeginAll() Begin { return Begin{all: true} }

// BeginFrom begins with the first event that was stored at t or later.
func BeginFrom(t time.Time) Begin { return Begin{from: t} }

// String is "new", "all" or the time.
func (b Begin) String() string {
	switch {
	case b.all:
		return "all"
	case !b.from.IsZero():
		return b.from.UTC().Format(time.RFC3339)
	}
	return "new"
}

// Validate refuses a plan whose names collide or whose numbers make no sense.
func (p Plan) Validate() error {
	if err := p.Source.Validate(); err != nil {
		return err
	}
	if p.Replicas < 0 || p.Replicas > 5 {
		return fmt.Errorf("replicas %d: a stream has 1 to 5 copies: 1 in development, 3 in a cluster", p.Replicas)
	}
	if p.MaxAge < 0 || p.MaxAge > 0 && p.MaxAge < time.Second {
		return fmt.Errorf("max age %v: at least a second; Codat replays events of 14 days", p.MaxAge)
	}
	for _, b := range []int64{p.MaxBytes, p.DeadMaxBytes, p.ParkedMaxBytes, p.ClaimsMaxBytes, p.StateMaxBytes} {
		if b < 0 {
			return errors.New("a negative limit in bytes: a stream without a limit could fill the disk of all others")
		}
	}
	seen := map[string]bool{}
	for _, w := range p.Workers {
		if err := w.Validate(); err != nil {
			return err
		}
		if seen[w.Name] {
			return fmt.Errorf("worker %q: planned twice: two workers with one name would take each other's events", w.Name)
		}
		seen[w.Name] = true
	}
	return nil
}

// Validate refuses a worker whose name, types or states cannot be names on the wire.
func (w WorkerPlan) Validate() error {
	if err := ValidateWorker(w.Name); err != nil {
		return err
	}
	for _, t := range w.Types {
		if err := validateType(t, true); err != nil {
			return fmt.Errorf("worker %s: type %q: %w", w.Name, t, err)
		}
	}
	for i, a := range w.Types {
		for _, b := range w.Types[i+1:] {
			if overlap(a, b) && !covers(a, b) && !covers(b, a) {
				return fmt.Errorf("worker %s: types %q and %q overlap, and neither contains the other: the server refuses both on one consumer", w.Name, a, b)
			}
		}
	}
	for _, s := range w.State {
		if err := validateState(s); err != nil {
			return fmt.Errorf("worker %s: %w", w.Name, err)
		}
	}
	if w.AckWait < 0 || w.MaxAckPending < 0 {
		return fmt.Errorf("worker %s: a negative ack wait or limit of pending acks: leave it zero for the default", w.Name)
	}
	return nil
}

// Filters are the subjects that the worker's consumer on the events matches, sorted: its types, without those that
// another one contains, and what is given to it again.
func (w WorkerPlan) Filters(s Source) []string {
	filters := []string{s.RedriveFilter(w.Name)}
	for _, t := range w.Types {
		filters = append(filters, s.EventFilter(t))
	}
	return widest(filters)
}

// widest sorts filters and drops those that another one covers: a server refuses filters that overlap.
func widest(filters []string) []string {
	var kept []string
	for i, f := range filters {
		covered := slices.Contains(filters[:i], f)
		for _, g := range filters {
			covered = covered || g != f && covers(g, f)
		}
		if !covered {
			kept = append(kept, f)
		}
	}
	slices.Sort(kept)
	return kept
}
