package ingress

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

const (
	firstBuffer = 4 << 10 // nearly every event fits
	// trusted is how much of an announced length is believed before any of it has come. From there on
	// a buffer grows with what is in it, so that an announcement alone costs no memory.
	trusted = 16 << 10
	growth  = 4
)

// bodies reads bodies into buffers that are used again.
type bodies struct {
	limit int64
	sizes []int // ascending; the last one is the limit and the byte that is over it
	pools []sync.Pool
}

// A body is what was read. Give it back when nobody looks at its bytes any more, or not at all.
type body struct {
	bytes []byte
	size  int // index of the pool it came from
}

func newBodies(limit int64) *bodies {
	b := &bodies{limit: limit}
	for size := int64(firstBuffer); size <= limit; size *= growth {
		b.sizes = append(b.sizes, int(size))
	}
	b.sizes = append(b.sizes, int(limit)+1)
	b.pools = make([]sync.Pool, len(b.sizes))
	return b
}

// read reads r to its end. announced is the length that the request says it has, -1 when it does not
// say. It returns ErrTooLarge, ErrSlow or ErrBroken.
func (b *bodies) read(r io.Reader, announced int64) (*body, error) {
	if announced > b.limit {
		return nil, fmt.Errorf("%w of %d bytes: %d announced", ErrTooLarge, b.limit, announced)
	}
	size := 0
	for size < len(b.sizes)-1 && int64(b.sizes[size]) < min(announced, trusted) {
		size++
	}
	into := b.take(size)
	for {
		if len(into.bytes) == cap(into.bytes) {
			into = b.grow(into)
		}
		n, err := r.Read(into.bytes[len(into.bytes):cap(into.bytes)])
		into.bytes = into.bytes[:len(into.bytes)+n]
		if int64(len(into.bytes)) > b.limit {
			err = fmt.Errorf("%w of %d bytes", ErrTooLarge, b.limit)
		}
		switch {
		case err == nil:
			continue
		case err == io.EOF:
			return into, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fmt.Errorf("%w: %d bytes of %d had come", ErrSlow, len(into.bytes), announced)
		case !errors.Is(err, ErrTooLarge):
			err = fmt.Errorf("%w after %d bytes of %d: %w", ErrBroken, len(into.bytes), announced, err)
		}
		b.put(into)
		return nil, err
	}
}

func (b *bodies) take(size int) *body {
	if got, ok := b.pools[size].Get().(*body); ok {
		return got
	}
	return &body{make([]byte, 0, b.sizes[size]), size}
}

// grow is called only while the limit is not reached: there is a next size.
func (b *bodies) grow(small *body) *body {
	large := b.take(small.size + 1)
	large.bytes = append(large.bytes, small.bytes...)
	b.put(small)
	return large
}

func (b *bodies) put(done *body) {
	done.bytes = done.bytes[:0]
	b.pools[done.size].Put(done)
}
