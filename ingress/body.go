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

// A body is what was read. Give it back when nobody looks at its bytes any more.
type body struct {
	bytes  []byte
	size   int   // index of the pool it came from
	room   *room // in which it has its place
	proven bool
}

// prove says that the body is proven: it does not count as a stranger's any more.
func (b *body) prove() {
	b.proven = true
	b.room.prove(cap(b.bytes))
}

// leave gives up the place of a body whose bytes somebody may still hold: they are never used again.
func (b *body) leave() { b.room.give(cap(b.bytes), b.proven) }

func newBodies(limit int64) *bodies {
	sizes := bufferSizes(limit)
	return &bodies{limit: limit, sizes: sizes, pools: make([]sync.Pool, len(sizes))}
}

// bufferSizes are those of the buffers for bodies of a limit.
func bufferSizes(limit int64) []int {
	var sizes []int
	for size := int64(firstBuffer); size < limit; size *= growth {
		sizes = append(sizes, int(size))
	}
	return append(sizes, int(limit)+1)
}

// leastRoom is the least room in which a body of the limit can be read when no other is there. The buffer that it grows
// out of has its place until its bytes are in the last one.
func leastRoom(limit int64) int64 {
	sizes := bufferSizes(limit)
	last := len(sizes) - 1
	needs := sizes[last]
	if last > 0 {
		needs += sizes[last-1]
	}
	return roomFor(int64(needs), sizes[last])
}

// read reads r to its end, into a buffer that has its place in the room, and so has the one before it
// while it grows. announced is the length that the request says it has, -1 when it does not say. It
// returns ErrTooLarge, ErrSlow, ErrBroken or ErrNoRoom.
func (b *bodies) read(r io.Reader, announced int64, in *room) (*body, error) {
	if announced > b.limit {
		return nil, fmt.Errorf("%w of %d bytes: %d announced", ErrTooLarge, b.limit, announced)
	}
	size := 0
	for size < len(b.sizes)-1 && int64(b.sizes[size]) < min(announced, trusted) {
		size++
	}
	into, err := b.take(size, in)
	if err != nil {
		return nil, err
	}
	for {
		if len(into.bytes) == cap(into.bytes) {
			large, err := b.take(into.size+1, in) // there is one while the limit is not reached
			if err != nil {
				b.put(into)
				return nil, err
			}
			large.bytes = append(large.bytes, into.bytes...)
			b.put(into)
			into = large
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

func (b *bodies) take(size int, in *room) (*body, error) {
	if err := in.take(b.sizes[size]); err != nil {
		return nil, err
	}
	got, ok := b.pools[size].Get().(*body)
	if !ok {
		got = &body{bytes: make([]byte, 0, b.sizes[size]), size: size}
	}
	got.room, got.proven = in, false
	return got, nil
}

func (b *bodies) put(done *body) {
	done.leave()
	done.bytes = done.bytes[:0]
	b.pools[done.size].Put(done)
}
