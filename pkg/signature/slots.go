package signature

import "time"

// A SlotPool limits how many expensive verifications run at a time: those beyond cheapLimit, under keys that did not
// match recently. Small bodies have slots of their own, so that they never wait behind large ones. Requests that must not
// wait for each other have pools of their own. A SlotPool is safe for concurrent use.
type SlotPool struct{ small, large chan struct{} }

// NewSlotPool returns a pool for a process with that many CPUs. From four CPUs on it has at most half of them, so that a
// flood of forgeries leaves CPUs to everything else; of three it leaves one. With one or two CPUs it has two slots, one
// for small and one for large bodies, and can use them all.
func NewSlotPool(cpus int) *SlotPool {
	return &SlotPool{
		small: make(chan struct{}, max(1, cpus/2-cpus/4)),
		large: make(chan struct{}, max(1, cpus/4)),
	}
}

func (p *SlotPool) forBody(body []byte) chan struct{} {
	switch {
	case p == nil:
		return nil
	case len(body) > smallBody:
		return p.large
	}
	return p.small
}

// A slot is a request's place among the expensive verifications of its pool.
type slot struct {
	pool  chan struct{} // nil for no limit
	until time.Time
	held  bool
}

// acquire waits for the slot and returns ErrBusy when it is not free by the deadline. A slot that is free is acquired
// after the deadline too.
func (s *slot) acquire() error {
	if s.held || s.pool == nil {
		return nil
	}
	select {
	case s.pool <- struct{}{}:
		s.held = true
		return nil
	default:
	}
	timer := time.NewTimer(time.Until(s.until))
	defer timer.Stop()
	select {
	case s.pool <- struct{}{}:
		s.held = true
		return nil
	case <-timer.C:
		return ErrBusy
	}
}

// release frees the slot if it is held.
func (s *slot) release() {
	if s.held {
		s.held = false
		<-s.pool
	}
}
