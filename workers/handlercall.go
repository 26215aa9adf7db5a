package workers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
)

var (
	// errPanic marks the error of an attempt that panicked.
	errPanic = errors.New("panic")
	// errGoexit is the error of an attempt that ended its goroutine.
	errGoexit = errors.New("the handler called runtime.Goexit, as t.FailNow does: return an error instead")
	// errAbandoned is the error of an attempt that did not end although its context had ended long before.
	errAbandoned = errors.New("the handler did not return after its context had ended, and is not waited for any more: make it return when its context ends")
)

// calls run what the worker's author wrote in goroutines apart from those of the runtime, so that a call that panics, ends its
// goroutine or never returns has an outcome all the same. The goroutines are kept for later calls, because a new one for each
// event would have to grow its stack.
type calls struct {
	idle   chan chan *call
	closed chan struct{}
}

type call struct {
	run   func() error
	ended chan error // has room for the result
}

// newCalls returns calls that keep up to n goroutines.
func newCalls(n int) *calls {
	return &calls{idle: make(chan chan *call, n), closed: make(chan struct{})}
}

// start starts run and returns the channel that receives its result. A nil *calls runs it at once, in the caller's goroutine.
func (c *calls) start(run func() error) <-chan error {
	k := &call{run, make(chan error, 1)}
	if c == nil {
		k.ended <- plain(protect(run))
		return k.ended
	}
	select {
	case g := <-c.idle:
		g <- k
	default:
		g := make(chan *call, 1)
		g <- k
		go func() {
			for k := range g {
				if !c.serve(g, k) {
					return
				}
			}
		}()
	}
	return k.ended
}

// serve runs a call and reports whether its goroutine is kept.
func (c *calls) serve(g chan *call, k *call) (kept bool) {
	err := errGoexit
	defer func() { k.ended <- err }()
	err = plain(protect(k.run))
	select {
	case <-c.closed:
		return false
	default:
	}
	select {
	case c.idle <- g:
		return true
	default:
		return false
	}
}

// close ends the goroutines that wait for a call. No call may be started afterwards.
func (c *calls) close() {
	close(c.closed)
	for {
		select {
		case g := <-c.idle:
			close(g)
		default:
			return
		}
	}
}

// protect returns a panic of run as an error, with its stack: one event must not end the process for all others.
func protect(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v: %s", errPanic, p, debug.Stack())
		}
	}()
	return run()
}

// plain returns an error with the text and the mark of err. The error of a handler can be one whose methods panic, such as a
// nil *url.Error in an error.
func plain(err error) (own error) {
	if err == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			own = fmt.Errorf("the handler returned an error of type %T whose methods panic (%v): return nil itself for a success", err, p)
		}
	}()
	if errors.Is(err, ErrSkip) {
		return ErrSkip
	}
	own = errors.New(err.Error())
	if detail := detailOf(err); detail != "" {
		own = detailed{own, detail}
	}
	var again retryAfter
	if errors.As(err, &again) {
		own = retryAfter{own, again.pause}
	}
	if errors.As(err, new(unavailable)) {
		own = unavailable{own}
	}
	if errors.As(err, new(permanent)) {
		own = permanent{own}
	}
	return own
}

// await returns the result of a handler whose context is ctx. It warns of a handler that does not return after its context
// ended, and later abandons it.
func (r *runner) await(ctx context.Context, d *delivery, ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(r.worker.pauses.stuck):
	}
	r.metrics.stuck.Add(1)
	r.log.Warn("a handler does not return although its context has ended: make it return when its context ends",
		zap.String("id", d.key.WebhookID), zap.String("type", d.typ), zap.Int("attempt", d.attempt), zap.NamedError("context", context.Cause(ctx)))
	select {
	case err := <-ended:
		r.metrics.stuck.Add(-1)
		return err
	case <-time.After(r.worker.pauses.abandon):
	}
	go func() {
		<-ended
		r.metrics.stuck.Add(-1)
	}()
	return errAbandoned
}

// checkHandlers is the health check of the handlers: it returns a warning while some do not return.
func (r *runner) checkHandlers(context.Context) error {
	if n := r.metrics.stuck.Load(); n > 0 {
		return process.Warning(fmt.Errorf("%d handlers do not return although their contexts have ended: make them return when their contexts end, and restart the process", n))
	}
	return nil
}
