package process

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// checkTimeout is the time that a check has to answer.
	checkTimeout = 2 * time.Second
	// answerAge is how long an answer is given again, so that many probes cost no more than one.
	answerAge = time.Second
)

// Health knows whether a process can take work. A process without a check is not ready: nobody has said yet what
// ready means. Safe for concurrent use.
type Health struct {
	part string
	*state
}

// state is what the parts of a process share.
type state struct {
	mu       sync.Mutex
	checks   []*check
	draining bool
	changes  int // of checks; an answer from before a change is not given again

	// probe is held while the checks are asked: whoever comes meanwhile waits and shares the answer.
	probe    sync.Mutex
	results  []result
	asked    time.Time
	askedFor int
}

type check struct {
	name string
	ask  func(context.Context) error
	owed chan error // the answer to come, nil when nobody waits for one
}

type result struct {
	name string
	err  error
}

var errStarting = errors.New("starting")

func (h *Health) named(part string) *Health {
	named := &Health{part: part, state: h.state}
	named.put(part, func(context.Context) error { return errStarting })
	return named
}

// Add makes readiness depend on check, which returns nil when it is well, and else what is wrong, for operators to
// read; with Warning it is shown and the process is ready all the same. It gets 2 s, and one call runs at a time.
// Adding a name again replaces its check.
func (h *Health) Add(name string, check func(context.Context) error) {
	if h.part != "" {
		h.remove(h.part)
		name = h.part + "/" + name
	}
	h.put(name, check)
}

func (s *state) put(name string, ask func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	added := &check{name: name, ask: ask}
	// Probes read the slice without the lock: it is replaced, never written to.
	s.checks = slices.Clone(s.checks)
	if i := slices.IndexFunc(s.checks, func(c *check) bool { return c.name == name }); i >= 0 {
		s.checks[i] = added
		return
	}
	s.checks = append(s.checks, added)
}

func (s *state) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	s.checks = slices.DeleteFunc(slices.Clone(s.checks), func(c *check) bool { return c.name == name })
}

// Warning marks what a check returns as something that an operator should see, and that does not keep the process from
// its work. Warning(nil) is nil.
func Warning(err error) error {
	if err == nil {
		return nil
	}
	return warning{err}
}

type warning struct{ error }

func (w warning) Unwrap() error { return w.error }

func isWarning(err error) bool {
	_, ok := errors.AsType[warning](err)
	return ok
}

// Drain says that the process is stopping: it is not ready from now on, so that nothing new is sent to it.
func (h *Health) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// Ready is nil when no check has more than a warning and the process is not draining; else it says what is wrong. An
// answer is at most a second old.
func (h *Health) Ready() error {
	var wrong []string
	for _, r := range h.answers() {
		if r.err != nil && !isWarning(r.err) {
			wrong = append(wrong, fmt.Sprintf("%s: %v", r.name, r.err))
		}
	}
	if wrong == nil {
		return nil
	}
	return errors.New(strings.Join(wrong, "; "))
}

// answers has one result at least.
func (s *state) answers() []result {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		// Checks that fail because the process closes things would only hide the reason.
		return []result{{"process", errors.New("stopping")}}
	}
	s.probe.Lock()
	defer s.probe.Unlock()
	s.mu.Lock()
	checks, changes := s.checks, s.changes
	s.mu.Unlock()
	if len(checks) == 0 {
		return []result{{"process", errStarting}}
	}
	if s.askedFor != changes || time.Since(s.asked) >= answerAge {
		s.results, s.asked, s.askedFor = ask(checks), time.Now(), changes
	}
	return s.results
}

// ask asks all checks at once. It does not use the context of the request that wants to know: the answer is for
// others too.
func ask(checks []*check) []result {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	results := make([]result, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = result{c.name, c.answer(ctx)} })
	}
	wg.Wait()
	return results
}

// answer waits no longer than ctx, also for a check that does not look at it; such a check is not asked again
// before it has answered.
func (c *check) answer(ctx context.Context) error {
	select {
	case <-c.owed: // too late to be true now
		c.owed = nil
	default:
	}
	if c.owed == nil {
		owed := make(chan error, 1)
		c.owed = owed
		go func() {
			defer func() {
				if v := recover(); v != nil {
					owed <- fmt.Errorf("panic: %v", v)
				}
			}()
			owed <- c.ask(ctx)
		}()
	}
	select {
	case err := <-c.owed:
		c.owed = nil
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %v", checkTimeout)
	}
}
