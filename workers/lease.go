package workers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
)

// lease keeps a claim and its delivery while a handler runs.
type lease struct {
	runner *runner
	msg    jetstream.Msg
	lost   context.CancelCauseFunc

	mu    sync.Mutex // held while the claim is renewed
	timer *time.Timer
	claim claims.Claim
	ended bool
}

// startLease renews the claim and the delivery's AckWait three times in a lease. It calls lost with ErrLost when another
// process has the claim, or when the claim could not be renewed before the lease was over.
func (r *runner) startLease(d *delivery, lost context.CancelCauseFunc) *lease {
	l := &lease{runner: r, msg: d.msg, lost: lost, claim: d.claim}
	l.mu.Lock() // renew needs the timer: it waits until the timer is assigned
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
	// The handler's context must end before another process may take the claim, ClockSkew after the lease.
	ctx, cancel := context.WithTimeout(context.Background(), min(requestTimeout, max(l.claim.Record.LeaseUntil.Sub(r.now()), time.Second)))
	defer cancel()
	saved, err := r.claims.Save(ctx, renewed)
	pace := r.worker.AckWait / 3
	switch {
	case err == nil:
		l.claim = saved
	case errors.Is(err, claims.ErrLost) || r.now().After(l.claim.Record.LeaseUntil):
		l.lost(claims.ErrLost)
		return
	default:
		pace = min(pace, time.Second)
	}
	l.timer.Reset(pace)
}

// end stops the renewal, waits for one that is under way, and returns the claim as it was renewed last.
func (l *lease) end() claims.Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.timer.Stop()
	return l.claim
}
