package inspect

import (
	"context"
	"sync"
)

// rangesAtOnce is how many ranges are read at once: one arrives while the other is looked at.
const rangesAtOnce = 2

// A span is the sequences behind after up to through, in ranges that begin with size and grow to largest.
type span struct{ after, through, size, largest uint64 }

// next cuts off the newest range.
func (s *span) next() (after, through uint64) {
	after, through = max(s.after, s.through-min(s.size, s.through)), s.through
	s.through, s.size = after, min(2*s.size, s.largest)
	return after, through
}

// A rangeRead is what was read of a range, once done is closed.
type rangeRead[T any] struct {
	after uint64
	done  chan struct{}
	value T
	err   error
}

// readNewestFirst reads the ranges of a span, two at once, and calls take with what read returned of each, newest first, until
// either returns an error, which it then returns. No read runs on when it returns.
func readNewestFirst[T any](ctx context.Context, s span, read func(ctx context.Context, after, through uint64) (T, error), take func(after uint64, v T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	var ahead []*rangeRead[T]
	for {
		for len(ahead) < rangesAtOnce && s.through > s.after {
			after, through := s.next()
			r := &rangeRead[T]{after: after, done: make(chan struct{})}
			reading.Go(func() {
				defer close(r.done)
				r.value, r.err = read(ctx, after, through)
			})
			ahead = append(ahead, r)
		}
		if len(ahead) == 0 {
			return nil
		}
		r := ahead[0]
		ahead = ahead[1:]
		<-r.done
		if r.err != nil {
			return r.err
		}
		if err := take(r.after, r.value); err != nil {
			return err
		}
	}
}
