package stream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/codat"
)

// What Provision uses for the zero values of a Layout. The sizes are limits that the server reserves without using the
// space; for four workers they are less than 6 GiB together.
const (
	// DefaultMaxAge is the 14 days in which Codat can replay an event and the 28 hours in which it retries one, in whole
	// days.
	DefaultMaxAge = 16 * 24 * time.Hour
	// DefaultMaxBytes holds 100,000 events a day for 16 days at 1.3 KiB each with its headers. The server counts
	// them uncompressed.
	DefaultMaxBytes = 2 << 30
	// DefaultDeadMaxBytes holds about 100,000 dead letters.
	DefaultDeadMaxBytes = 256 << 20
	// DefaultParkedMaxBytes holds about 100,000 parked copies, five times the limit of pending acks of one consumer.
	DefaultParkedMaxBytes = 256 << 20
	// DefaultClaimsMaxBytes holds about 1.7 million claims of 300 bytes, those of 23 days with 70,000 events. A full bucket
	// stops its worker and loses nothing.
	DefaultClaimsMaxBytes = 512 << 20
	// DefaultStateMaxBytes holds about 100,000 entries of 1 KiB.
	DefaultStateMaxBytes = 128 << 20

	// DefaultAckWait is twice the default timeout of an attempt.
	DefaultAckWait = time.Minute
	// DefaultMaxAckPending leaves space for the short waits of all replicas; long waits are parked.
	DefaultMaxAckPending = 5000
)

const (
	deadMaxAge       = 90 * 24 * time.Hour  // longer than every retry
	operatorMaxAge   = 365 * 24 * time.Hour // a year
	operatorMaxBytes = 64 << 20
	claimsGrace      = 7 * 24 * time.Hour // how much longer than its event a claim lives
	parkedWindow     = time.Hour          // a worker that crashes while it parks an event parks it again within this time
	workersTTL       = time.Minute
	workersMaxBytes  = 16 << 20
	expectedMaxAge   = 14 * 24 * time.Hour // headgate watch writes again what it still needs
	expectedMaxBytes = 32 << 20            // 3,000 records, what is learned of 1,000 types, and 100,000 markers of what has come
	parkedPending    = 20000               // 7 % of a core, measured
	maxWaiting       = 2048                // pulls; it cannot be raised later
)

// Layout says what must be in place for a source. A zero value means the default for a new object, and the present value
// for an existing one, so that a limit which an operator raised stays raised.
type Layout struct {
	Source Source
	// Replicas is the number of copies of every stream and bucket: 1, 3 or 5. With zero, no stream and no bucket gets fewer
	// than the events have.
	Replicas int

	MaxAge         time.Duration // of the events, and the window in which an id is known; DefaultMaxAge
	MaxBytes       int64         // of the events; DefaultMaxBytes
	DeadMaxBytes   int64         // of the dead letters; DefaultDeadMaxBytes
	ParkedMaxBytes int64         // of the parked events; DefaultParkedMaxBytes
	ClaimsMaxBytes int64         // of the claims of each worker; DefaultClaimsMaxBytes
	StateMaxBytes  int64         // of each state; DefaultStateMaxBytes
	// StateMaxAge is how long a record of a state is kept after its last change, by the state's name; 0 is for ever. A state
	// that is missing keeps its present value, and a new one has that of its worker.
	StateMaxAge map[string]time.Duration

	Workers []WorkerSpec
	Support bool // make SupportConsumer too; an existing one stays in any case

	// AllowLoss applies changes that Provision otherwise refuses because they could lose events.
	AllowLoss bool

	eventReplicas int // of the stream of the events, once they are known
}

// WorkerSpec says what must be in place for one worker.
type WorkerSpec struct {
	Name  string
	Types []codat.Pattern // of the events that it handles
	State []string        // names of the states that it writes
	Reads []string        // names of the states of other workers that it reads, where they are there
	// StateMaxAge is how long a record of a new state is kept after its last change, by the state's name; without it, for ever.
	StateMaxAge   map[string]time.Duration
	Requests      []string      // subjects of the requests that it answers, without the source: "plans.*"
	AckWait       time.Duration // after which a delivery without a progress ack is delivered again; DefaultAckWait
	MaxAckPending int           // deliveries without an ack, over all replicas; DefaultMaxAckPending
	Begin         Begin         // where a new worker begins; an existing one continues, and skips nothing without its consumer
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

// Validate returns an error for a layout whose names collide or whose numbers are out of range.
func (p Layout) Validate() error {
	if err := p.Source.Validate(); err != nil {
		return err
	}
	if p.Replicas < 0 || p.Replicas > 5 {
		return fmt.Errorf("replicas must be 1 to 5 (got %d): 1 in development, 3 in a cluster", p.Replicas)
	}
	if p.MaxAge < 0 || p.MaxAge > 0 && p.MaxAge < time.Second {
		return fmt.Errorf("max age must be at least 1s (got %v); Codat replays events of 14 days", p.MaxAge)
	}
	for _, b := range []int64{p.MaxBytes, p.DeadMaxBytes, p.ParkedMaxBytes, p.ClaimsMaxBytes, p.StateMaxBytes} {
		if b < 0 {
			return errors.New("a limit in bytes must not be negative: a stream without a limit could fill the disk")
		}
	}
	seen, states := map[string]bool{}, map[string]bool{}
	for _, w := range p.Workers {
		for _, state := range w.State {
			states[state] = true
		}
		if err := w.Validate(); err != nil {
			return err
		}
		if seen[w.Name] {
			return fmt.Errorf("worker %q is there twice: two workers with one name would take each other's events", w.Name)
		}
		seen[w.Name] = true
	}
	if err := validateMaxAges(p.StateMaxAge, states); err != nil {
		return err
	}
	if p.Support && seen[SupportConsumer] {
		return fmt.Errorf("worker %q has the name of the consumer for support: give the worker another name", SupportConsumer)
	}
	return nil
}

// minStateMaxAge is the shortest time for which a record is kept: shorter than any outage that is noticed, it would be lost
// before it is read.
const minStateMaxAge = time.Hour

// validateMaxAges returns an error for a time that is too short, and for a state that is not among states.
func validateMaxAges(ages map[string]time.Duration, states map[string]bool) error {
	for _, state := range slices.Sorted(maps.Keys(ages)) {
		switch age := ages[state]; {
		case !states[state]:
			return fmt.Errorf("state max age: no worker writes a state %q", state)
		case age != 0 && age < minStateMaxAge:
			return fmt.Errorf("state max age of %s must be at least %v, or 0s to keep its records for ever (got %v)", state, minStateMaxAge, age)
		}
	}
	return nil
}

// Validate returns an error for a worker whose name, types, states or requests are not valid.
func (w WorkerSpec) Validate() error {
	if err := ValidateWorker(w.Name); err != nil {
		return err
	}
	for _, t := range w.Types {
		if err := t.Validate(); err != nil {
			return fmt.Errorf("worker %s: type %q: %w", w.Name, t, err)
		}
	}
	for _, s := range w.Reads {
		if err := validateState(s); err != nil {
			return fmt.Errorf("worker %s: %w", w.Name, err)
		}
	}
	for i, a := range w.Types {
		for _, b := range w.Types[i+1:] {
			if a.Overlaps(b) && !a.Covers(b) && !b.Covers(a) {
				return fmt.Errorf("worker %s: types %q and %q overlap, and neither contains the other: the server refuses both on one consumer", w.Name, a, b)
			}
		}
	}
	states := map[string]bool{}
	for _, s := range w.State {
		if err := validateState(s); err != nil {
			return fmt.Errorf("worker %s: %w", w.Name, err)
		}
		states[s] = true
	}
	if err := validateMaxAges(w.StateMaxAge, states); err != nil {
		return fmt.Errorf("worker %s: %w", w.Name, err)
	}
	for _, r := range w.Requests {
		if err := validateRequest(r); err != nil {
			return fmt.Errorf("worker %s: %w", w.Name, err)
		}
	}
	if w.AckWait < 0 || w.MaxAckPending < 0 {
		return fmt.Errorf("worker %s: the ack wait and the limit of pending acks must not be negative; 0 is the default", w.Name)
	}
	return nil
}

// Filters are the sorted filters of the worker's consumer on the events: those of its types, without the ones that another
// type covers, and that of its redrives.
func (w WorkerSpec) Filters(s Source) []string {
	filters := []string{s.RedriveFilter(w.Name)}
	for _, t := range w.Types {
		filters = append(filters, s.EventFilter(t))
	}
	return widest(filters)
}
