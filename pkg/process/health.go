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
	// checkTimeout bounds the time of a check.
	checkTimeout = 2 * time.Second
	// resultAge is the time for which results are used again, so that many probes cost as much as one.
	resultAge = time.Second
)

// Health tells whether a process can take work. A process without a check is not ready. Safe for concurrent use.
type Health struct {
	part string
	*state
}

// state is shared by the parts of a process.
type state struct {
	mu       sync.Mutex
	checks   []*check
	draining bool
	version  int // of checks; results of an older version are not used again

	// probe is held while the checks run: probes that come meanwhile wait and share the results.
	probe          sync.Mutex
	results        []result
	resultsTime    time.Time
	resultsVersion int
}

type check struct {
	name    string
	run     func(context.Context) error
	pending chan error // result of the running call, nil when none runs
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

// Add adds a check, on which readiness depends: it returns nil when all is well, and an error for operators to read
// when not. An error that Warning marked is shown and does not make the process unready. A check has 2 s, and one call
// of it runs at a time. A second check of the same name replaces the first.
func (h *Health) Add(name string, check func(context.Context) error) {
	if h.part != "" {
		h.remove(h.part)
		name = h.part + "/" + name
	}
	h.put(name, check)
}

func (s *state) put(name string, run func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	added := &check{name: name, run: run}
	// Probes read the slice without the lock: it is replaced and never written to.
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
	s.version++
	s.checks = slices.DeleteFunc(slices.Clone(s.checks), func(c *check) bool { return c.name == name })
}

// Warning marks an error of a check that operators should see and that does not make the process unready.
// Warning(nil) is nil.
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

// Drain makes the process unready for good: it is stopping and must get no new work.
func (h *Health) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// Ready returns nil when no check has an error other than a warning and the process is not draining, and otherwise an
// error that names each check that failed. A result is at most a second old.
func (h *Health) Ready() error {
	var failed []string
	for _, r := range h.check() {
		if r.err != nil && !isWarning(r.err) {
			failed = append(failed, fmt.Sprintf("%s: %v", r.name, r.err))
		}
	}
	if failed == nil {
		return nil
	}
	return errors.New(strings.Join(failed, "; "))
}

// check returns one result at least.
func (s *state) check() []result {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		// Checks that fail because the process closes its connections would hide the reason.
		return []result{{"process", errors.New("stopping")}}
	}
	s.probe.Lock()
	defer s.probe.Unlock()
	s.mu.Lock()
	checks, version := s.checks, s.version
	s.mu.Unlock()
	if len(checks) == 0 {
		return []result{{"process", errStarting}}
	}
	if s.resultsVersion != version || time.Since(s.resultsTime) >= resultAge {
		s.results, s.resultsTime, s.resultsVersion = runAll(checks), time.Now(), version
	}
	return s.results
}

// runAll runs all checks at once. It does not use the context of the request that asks: other requests share the
// results.
func runAll(checks []*check) []result {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	results := make([]result, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = result{c.name, c.result(ctx)} })
	}
	wg.Wait()
	return results
}

// result runs the check and waits until ctx ends at most, also for a check that ignores ctx. Such a check is not run
// again before it has returned.
func (c *check) result(ctx context.Context) error {
	select {
	case <-c.pending: // the result of an earlier call is out of date
		c.pending = nil
	default:
	}
	if c.pending == nil {
		pending := make(chan error, 1)
		c.pending = pending
		go func() {
			defer func() {
				if v := recover(); v != nil {
					pending <- fmt.Errorf("panic: %v", v)
				}
			}()
			pending <- c.run(ctx)
		}()
	}
	select {
	case err := <-c.pending:
		c.pending = nil
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %v", checkTimeout)
	}
}
