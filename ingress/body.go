package ingress

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// A body begins in the first buffer, whatever it announces, and the buffer grows with its content: an announcement costs no
// memory.
const (
	firstBuffer  = 4 << 10 // bytes; nearly every event fits
	growthFactor = 4
)

// A bodyPool reads request bodies up to a limit into buffers that are reused.
type bodyPool struct {
	limit int64
	sizes []int       // ascending; the last one is the limit plus the byte that exceeds it
	pools []sync.Pool // of *buffer, by size
}

// A buffer is the memory of a body.
type buffer struct {
	bytes []byte
	size  int // index of its size and pool
}

// A body is a request body whose buffer counts against a budget. Close it. It is not safe for concurrent use.
type body struct {
	bytes      []byte // valid until recycle
	buffer     *buffer
	pool       *bodyPool
	memory     *budget
	unverified bool
}

// verified records that the body was verified: it no longer counts against the share of unverified bodies.
func (b *body) verified() {
	if b.unverified {
		b.unverified = false
		b.memory.verified(cap(b.buffer.bytes))
	}
}

// Close removes the body from its budget. Its buffer is left to the garbage collector, because after a panic the store
// may still hold the bytes. It does nothing after the first call or after recycle.
func (b *body) Close() {
	if b.buffer != nil {
		b.memory.release(cap(b.buffer.bytes), !b.unverified)
		b.buffer = nil
	}
}

// recycle closes the body and lets another one use its buffer. Call it when nothing holds the bytes any more.
func (b *body) recycle() {
	if buf := b.buffer; buf != nil {
		b.Close()
		b.pool.put(buf)
	}
}

func newBodyPool(limit int64) *bodyPool {
	sizes := bufferSizes(limit)
	return &bodyPool{limit: limit, sizes: sizes, pools: make([]sync.Pool, len(sizes))}
}

// bufferSizes returns the sizes of the buffers for bodies up to a limit.
func bufferSizes(limit int64) []int {
	var sizes []int
	for size := int64(firstBuffer); size < limit; size *= growthFactor {
		sizes = append(sizes, int(size))
	}
	return append(sizes, int(limit)+1)
}

// minBudget returns the smallest budget in which a body of the limit can be read while there is no other. The largest
// buffer and the one before it count at the same time, while the bytes are copied.
func minBudget(limit int64) int64 {
	sizes := bufferSizes(limit)
	last := len(sizes) - 1
	needs := sizes[last]
	if last > 0 {
		needs += sizes[last-1]
	}
	return required(int64(needs), sizes[last])
}

// read reads r to its end into a buffer that counts against the budget, as does the smaller buffer while it grows.
// announced is the length that the request announces, or -1. Errors are errTooLarge, errBodyTimeout, errBodyIncomplete
// and errBodyMemory.
func (p *bodyPool) read(r io.Reader, announced int64, memory *budget) (body, error) {
	if announced > p.limit {
		return body{}, fmt.Errorf("%w of %d bytes: %d announced", errTooLarge, p.limit, announced)
	}
	into, err := p.get(0, memory)
	for err == nil {
		if len(into.bytes) == cap(into.bytes) {
			if into, err = p.grow(into, memory); err != nil {
				break
			}
		}
		var n int
		n, err = r.Read(into.bytes[len(into.bytes):cap(into.bytes)])
		into.bytes = into.bytes[:len(into.bytes)+n]
		if int64(len(into.bytes)) > p.limit {
			err = fmt.Errorf("%w of %d bytes", errTooLarge, p.limit)
		}
	}
	switch {
	case err == io.EOF:
		return body{bytes: into.bytes, buffer: into, pool: p, memory: memory, unverified: true}, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("%w: %d bytes of %d received", errBodyTimeout, len(into.bytes), announced)
	case !errors.Is(err, errTooLarge) && !errors.Is(err, errBodyMemory):
		err = fmt.Errorf("%w after %d bytes of %d: %w", errBodyIncomplete, len(into.bytes), announced, err)
	}
	if into != nil {
		memory.release(cap(into.bytes), false)
		p.put(into)
	}
	return body{}, err
}

// get returns an empty buffer of a size, which counts against the budget as unverified. It returns errBodyMemory.
func (p *bodyPool) get(size int, memory *budget) (*buffer, error) {
	if err := memory.reserveOrDrop(p.sizes[size]); err != nil {
		return nil, err
	}
	if buf, ok := p.pools[size].Get().(*buffer); ok {
		return buf, nil
	}
	return &buffer{bytes: make([]byte, 0, p.sizes[size]), size: size}, nil
}

// grow returns a buffer of the next size with the same bytes, in place of the full one. There is a next size until the
// limit is exceeded. With an error it returns the full one.
func (p *bodyPool) grow(full *buffer, memory *budget) (*buffer, error) {
	large, err := p.get(full.size+1, memory)
	if err != nil {
		return full, err
	}
	large.bytes = append(large.bytes, full.bytes...)
	memory.release(cap(full.bytes), false)
	p.put(full)
	return large, nil
}

// put lets another body use a buffer.
func (p *bodyPool) put(buf *buffer) {
	buf.bytes = buf.bytes[:0]
	p.pools[buf.size].Put(buf)
}
