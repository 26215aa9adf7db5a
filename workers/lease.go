package workers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// lease keeps a claim and its delivery alive while a handler runs.
type lease struct {
	runner *runner
	msg    jetstream.Msg
	lost   context.CancelCauseFunc

	mu    sync.Mutex // held while the claim is renewed
	timer *time.Timer
	claim Claim
	ended bool
}

// keep renews the claim and the delivery's AckWait three times in a lease, and calls lost with ErrLost when
// somebody else has the claim or nobody could be asked until the lease ran out.
func (r *runner) keep(m jetstream.Msg, claim Claim, lost context.CancelCauseFunc) *lease {
	l := &lease{runner: r, msg: m, lost: lost, claim: claim}
	l.mu.Lock() // a timer that is due at once waits until it is known
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(r.worker.AckWait/3, l.renew)
	return l
}

func (l *lease) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	r := l.runner
	// The delivery first: when the claim cannot be renewed, its redelivery finds the claim busy.
	_ = l.msg.InProgress()
	renewed := l.claim
	renewed.Record.LeaseUntil = r.now().Add(r.worker.AckWait)
	// The handler must have ended when somebody else may begin, Grace after the lease.
	ctx, cancel := context.WithTimeout(context.Background(), min(patience, max(l.claim.Record.LeaseUntil.Sub(r.now()), time.Second)))
	defer cancel()
	saved, err := r.claims.Save(ctx, renewed)
	pace := r.worker.AckWait / 3
	switch {
	case err == nil:
		l.claim = saved
	case errors.Is(err, ErrLost) || r.now().After(l.claim.Record.LeaseUntil):
		l.lost(ErrLost)
		return
	default:
		pace = min(pace, time.Second)
	}
	l.timer.Reset(pace)
}

// end stops the renewal, waits for one that is under way, and returns the claim as it was renewed last.
func (l *lease) end() Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.timer.Stop()
	return l.claim
}
