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
	stop  context.CancelFunc
	wg    sync.WaitGroup
	claim Claim // read it after end only
}

// keep renews the claim and the delivery's AckWait three times in a lease, and calls lost with ErrLost when
// somebody else has the claim or nobody could be asked until the lease ran out.
func (r *runner) keep(m jetstream.Msg, claim Claim, lost context.CancelCauseFunc) *lease {
	ctx, stop := context.WithCancel(context.Background())
	l := &lease{stop: stop, claim: claim}
	l.wg.Go(func() {
		pace := r.worker.AckWait / 3
		for timer := time.NewTimer(pace); ; timer.Reset(pace) {
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			// The delivery first: when the claim cannot be renewed, its redelivery finds the claim busy.
			_ = m.InProgress()
			renewed := l.claim
			renewed.Record.LeaseUntil = r.now().Add(r.worker.AckWait)
			saved, err := r.claims.Save(ctx, renewed)
			switch {
			case err == nil:
				l.claim, pace = saved, r.worker.AckWait/3
			case ctx.Err() != nil:
				return // the handler ended meanwhile; what Save did is found out by the next one
			case errors.Is(err, ErrLost) || r.now().After(l.claim.Record.LeaseUntil):
				lost(ErrLost)
				return
			default:
				pace = min(pace, time.Second)
			}
		}
	})
	return l
}

// end stops the renewal and returns the claim as it was renewed last.
func (l *lease) end() Claim {
	l.stop()
	l.wg.Wait()
	return l.claim
}
