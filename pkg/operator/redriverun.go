package operator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/deadletter"
)

const (
	readAhead     = 32       // messages that are read before it is their turn
	orderedRate   = 100      // up to which events are given one after the other
	spaceInterval = 16 << 20 // bytes that are given between two looks at the space of the stream
)

// A redriveRun is one run of a redrive. Messages are read ahead, given their turn in the order of the selection, and published up
// to publishWindow at once.
type redriveRun struct {
	operator  *Operator
	selection *Selection
	opts      RedriveOptions
	redriver  deadletter.Redriver
	bodies    map[string]sentBody // what had its turn, by worker and webhook-id
	unchecked int                 // bytes since the space of the stream was looked at

	slots               chan struct{} // as many elements as messages are published now
	reading, publishing sync.WaitGroup

	mu            sync.Mutex // guards what follows
	given, before int
	done          int
	log           *givenLog // which dead letters were given
	left          leftOut
	err           error // the first that ends the run
}

func newRedriveRun(o *Operator, s *Selection, opts RedriveOptions, e Entry) *redriveRun {
	window := publishWindow
	if s.inOrder || opts.Rate <= orderedRate {
		window = 1
	}
	return &redriveRun{
		operator: o, selection: s, opts: opts, redriver: o.redriver(),
		bodies: map[string]sentBody{}, unchecked: spaceInterval, slots: make(chan struct{}, window),
		log: &givenLog{operator: o, entry: e}, left: leftOut{noun: s.noun},
	}
}

func (o *Operator) redriver() deadletter.Redriver {
	return deadletter.Redriver{JS: o.js, Publisher: o.publisher, Source: o.source}
}

// A readLetter is a message of the selection that was read.
type readLetter struct {
	number  uint64
	letter  deadletter.Letter
	expired bool
	err     error // why it could not be read
}

// all redrives the selection. It returns when nothing is on its way.
func (r *redriveRun) all(ctx context.Context) error {
	reading, end := context.WithCancel(ctx)
	ahead := r.read(reading)
	// A burst makes up for timers, which are late by a millisecond.
	limit := rate.NewLimiter(rate.Limit(r.opts.Rate), max(1, int(r.opts.Rate/100)))
	for _, number := range r.selection.numbers {
		if err := limit.Wait(ctx); err != nil {
			r.stop(number, err)
			break
		}
		read, open := <-ahead
		if !open { // ctx has ended
			r.stop(number, ctx.Err())
			break
		}
		if r.turn(ctx, read); r.failed() {
			break
		}
	}
	end()
	r.reading.Wait()
	r.publishing.Wait()
	return errors.Join(r.err, r.left.err())
}

// read reads the messages of the selection ahead, and returns them in its order.
func (r *redriveRun) read(ctx context.Context) <-chan readLetter {
	ahead := make(chan readLetter, readAhead)
	numbers := r.selection.numbers // that are to come
	next := func(read readLetter) bool {
		read.number, numbers = numbers[0], numbers[1:]
		select {
		case ahead <- read:
			return true
		case <-ctx.Done():
			return false
		}
	}
	r.reading.Go(func() {
		defer close(ahead)
		err := r.selection.read(ctx, func(number uint64, letter deadletter.Letter) bool {
			for numbers[0] != number {
				if !next(readLetter{expired: true}) {
					return false
				}
			}
			return next(readLetter{letter: letter})
		})
		for len(numbers) > 0 && ctx.Err() == nil { // those behind the last that is stored
			if !next(readLetter{expired: err == nil, err: err}) || err != nil {
				return
			}
		}
	})
	return ahead
}

// turn begins to publish a message whose turn it is, or finds that it is not to be given.
func (r *redriveRun) turn(ctx context.Context, read readLetter) {
	switch {
	case read.expired:
		r.leave(read.number, "it has expired since it was chosen")
		return
	case ctx.Err() != nil:
		r.stop(read.number, ctx.Err())
		return
	case read.err != nil:
		r.fail(read.err)
		return
	}
	letter := read.letter
	key, sum := letter.Worker+":"+letter.WebhookID, sha256.Sum256(letter.Body)
	first, known := r.bodies[key]
	switch {
	case known && first.sum != sum && !letter.NoBody:
		r.leave(read.number, fmt.Sprintf("it has the webhook-id and worker of %s %d, and another body: give it alone, under another redrive ID", r.selection.noun, first.number))
		return
	case !known && !letter.NoBody:
		r.bodies[key] = sentBody{read.number, sum}
	}
	if r.unchecked += len(letter.Body); r.unchecked >= spaceInterval {
		if err := r.checkSpace(ctx); err != nil {
			r.fail(fmt.Errorf("%s %d: %w", r.selection.noun, read.number, err))
			return
		}
		r.unchecked = 0
	}
	if known || letter.NoBody { // it may be a duplicate of one that is published now
		r.publishing.Wait()
		if !r.failed() {
			r.publish(ctx, read.number, letter)
		}
		return
	}
	r.slots <- struct{}{}
	if r.failed() { // without a window, the message before: what follows it must not overtake it
		<-r.slots
		return
	}
	r.publishing.Go(func() {
		defer func() { <-r.slots }()
		r.publish(ctx, read.number, letter)
	})
}

// stop ends the run before a message, because ctx has ended.
func (r *redriveRun) stop(before uint64, err error) {
	r.fail(fmt.Errorf("stopped before %s %d: %w", r.selection.noun, before, err))
}

// checkSpace returns stream.ErrFull when the source's stream has no space for redrives. As with a publish, the end of ctx does not cut it off.
func (r *redriveRun) checkSpace(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.operator.timeout)
	defer cancel()
	return r.redriver.CheckSpace(ctx)
}

// publish gives one message again. The end of ctx does not cut it off, so that its outcome is known and counted.
func (r *redriveRun) publish(ctx context.Context, number uint64, letter deadletter.Letter) {
	publishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.operator.timeout)
	defer cancel()
	receipt, err := r.redriver.Redrive(publishing, r.opts.ID, letter)
	if err != nil {
		r.fail(fmt.Errorf("%s %d: %w", r.selection.noun, number, err))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if receipt.Duplicate {
		r.before++
	} else {
		r.given++
	}
	if r.selection.letters {
		if err := r.log.add(ctx, number); err != nil && r.err == nil {
			r.err = err
		}
	}
	r.progress()
}

// leave notes that a message is not given.
func (r *redriveRun) leave(number uint64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left.add(number, why)
	r.progress()
}

// progress counts a message that had its turn. The caller holds mu.
func (r *redriveRun) progress() {
	r.done++
	if r.opts.Progress != nil {
		r.opts.Progress(r.done, len(r.selection.numbers))
	}
}

// fail ends the run, unless it has ended before.
func (r *redriveRun) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

func (r *redriveRun) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}
