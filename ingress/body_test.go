package ingress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func TestBodyPool_ReadsWholeBodies(t *testing.T) {
	t.Parallel()
	const limit = 1 << 18
	readers := map[string]func(io.Reader) io.Reader{
		"at once":               func(r io.Reader) io.Reader { return r },
		"the end with the data": iotest.DataErrReader,
		"by halves":             iotest.HalfReader,
	}
	b := newBodyPool(limit)
	for _, size := range []int{0, 1, 4095, 4096, 4097, 16383, 16384, 16385, 65536, limit - 1, limit} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		for name, reader := range readers {
			for _, announced := range []int64{-1, int64(size)} {
				t.Run(fmt.Sprintf("%d bytes %s, %d announced", size, name, announced), func(t *testing.T) {
					got, err := b.read(reader(bytes.NewReader(want)), announced, newBudget(1<<30))
					if err != nil || !bytes.Equal(got.bytes, want) {
						t.Fatalf("read = %v; want %d bytes as they came", err, size)
					}
					got.recycle()
				})
			}
		}
	}
}

func TestBodyPool_RefusesBodies(t *testing.T) {
	t.Parallel()
	const limit = 10000
	tests := []struct {
		name      string
		reader    io.Reader
		announced int64
		want      error
	}{
		{"announced as too large", strings.NewReader(""), limit + 1, errTooLarge},
		{"too large by a byte, not announced", strings.NewReader(strings.Repeat("x", limit+1)), -1, errTooLarge},
		{"endless", iotest.HalfReader(endless{}), -1, errTooLarge},
		{"too slow", io.MultiReader(strings.NewReader("x"), iotest.ErrReader(os.ErrDeadlineExceeded)), 2, errBodyTimeout},
		{"ended early", io.MultiReader(strings.NewReader("x"), iotest.ErrReader(io.ErrUnexpectedEOF)), 2, errBodyIncomplete},
		{"connection lost", iotest.ErrReader(errors.New("connection reset by peer")), -1, errBodyIncomplete},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := newBodyPool(limit).read(tt.reader, tt.announced, newBudget(1<<30)); !errors.Is(err, tt.want) || got.bytes != nil {
				t.Errorf("read = %v, %v; want %v", got.bytes, err, tt.want)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestBodyPool_AllocatesLittleForAnAnnouncement(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	b := newBodyPool(limit)
	var buffer int
	watch := readerFunc(func(p []byte) (int, error) {
		buffer = len(p)
		return 0, io.ErrUnexpectedEOF
	})
	if _, err := b.read(watch, limit, newBudget(1<<30)); !errors.Is(err, errBodyIncomplete) {
		t.Fatal(err)
	}
	if buffer > firstBuffer {
		t.Errorf("for an announcement of %d bytes a buffer of %d was allocated; want %d at most", limit, buffer, firstBuffer)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestBodyPool_ReadsUpToTheLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1, 4095, 4096, 4097, 16384, 1 << 20, 3 << 20} {
		b := newBodyPool(limit)
		for _, announced := range []int64{-1, limit} {
			got, err := b.read(bytes.NewReader(make([]byte, limit)), announced, newBudget(1<<30))
			if err != nil || int64(len(got.bytes)) != limit {
				t.Errorf("limit %d, %d announced: read = %v; want a body of the limit", limit, announced, err)
			}
		}
		if _, err := b.read(bytes.NewReader(make([]byte, limit+1)), -1, newBudget(1<<30)); !errors.Is(err, errTooLarge) {
			t.Errorf("limit %d: read of a byte more = %v; want %v", limit, err, errTooLarge)
		}
	}
}

func TestBody_ReleasesItsMemory(t *testing.T) {
	t.Parallel()
	const limit = 1 << 18
	in := newBudget(1 << 30)
	b := newBodyPool(limit)
	for _, size := range []int{0, 4096, 4097, 100_000, limit} {
		got, err := b.read(bytes.NewReader(make([]byte, size)), -1, in)
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(cap(got.buffer.bytes)); in.total.Load() != want || in.unverified.Load() != want {
			t.Errorf("a body of %d bytes reserves %d, of which %d unverified; want %d of both", size, in.total.Load(), in.unverified.Load(), want)
		}
		got.verified()
		if in.unverified.Load() != 0 {
			t.Errorf("a verified body still reserves %d as unverified", in.unverified.Load())
		}
		got.recycle()
		if in.total.Load() != 0 {
			t.Errorf("a recycled body still reserves %d", in.total.Load())
		}
	}
	for name, reader := range map[string]io.Reader{
		"too large":   endless{},
		"ended early": io.MultiReader(bytes.NewReader(make([]byte, 5000)), iotest.ErrReader(io.ErrUnexpectedEOF)),
	} {
		if _, err := b.read(reader, -1, in); err == nil || in.total.Load() != 0 || in.unverified.Load() != 0 {
			t.Errorf("%s: %v; %d and %d are still reserved", name, err, in.total.Load(), in.unverified.Load())
		}
	}
}
