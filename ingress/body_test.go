package ingress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestBodiesAreReadWhole(t *testing.T) {
	const limit = 1 << 18
	readers := map[string]func(io.Reader) io.Reader{
		"at once":               func(r io.Reader) io.Reader { return r },
		"the end with the data": iotest.DataErrReader,
		"by halves":             iotest.HalfReader,
	}
	b := newBodies(limit)
	for _, size := range []int{0, 1, 4095, 4096, 4097, 16383, 16384, 16385, 65536, limit - 1, limit} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		for name, reader := range readers {
			for _, announced := range []int64{-1, int64(size)} {
				t.Run(fmt.Sprintf("%d bytes %s, %d announced", size, name, announced), func(t *testing.T) {
					got, err := b.read(reader(bytes.NewReader(want)), announced, newRoom(1<<30))
					if err != nil || !bytes.Equal(got.bytes, want) {
						t.Fatalf("read = %v; want %d bytes as they came", err, size)
					}
					b.put(got)
				})
			}
		}
	}
}

func TestBodiesThatAreRefused(t *testing.T) {
	const limit = 10000
	tests := []struct {
		name      string
		reader    io.Reader
		announced int64
		want      error
	}{
		{"announced as too large", strings.NewReader(""), limit + 1, ErrTooLarge},
		{"too large by a byte, not announced", strings.NewReader(strings.Repeat("x", limit+1)), -1, ErrTooLarge},
		{"endless", iotest.HalfReader(endless{}), -1, ErrTooLarge},
		{"too slow", io.MultiReader(strings.NewReader("x"), iotest.ErrReader(os.ErrDeadlineExceeded)), 2, ErrSlow},
		{"ended early", io.MultiReader(strings.NewReader("x"), iotest.ErrReader(io.ErrUnexpectedEOF)), 2, ErrBroken},
		{"connection lost", iotest.ErrReader(errors.New("connection reset by peer")), -1, ErrBroken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := newBodies(limit).read(tt.reader, tt.announced, newRoom(1<<30)); !errors.Is(err, tt.want) || got != nil {
				t.Errorf("read = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestAnnouncementAloneCostsNoMemory(t *testing.T) {
	const limit = 1 << 20
	b := newBodies(limit)
	var room int
	watch := readerFunc(func(p []byte) (int, error) {
		room = len(p)
		return 0, io.ErrUnexpectedEOF
	})
	if _, err := b.read(watch, limit, newRoom(1<<30)); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
	if room > trusted {
		t.Errorf("for an announcement of %d bytes there was room for %d; want %d at most", limit, room, trusted)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestLimitsOfEverySize(t *testing.T) {
	for _, limit := range []int64{1, 4095, 4096, 4097, 16384, 1 << 20, 3 << 20} {
		b := newBodies(limit)
		for _, announced := range []int64{-1, limit} {
			got, err := b.read(bytes.NewReader(make([]byte, limit)), announced, newRoom(1<<30))
			if err != nil || int64(len(got.bytes)) != limit {
				t.Errorf("limit %d, %d announced: read = %v; want a body of the limit", limit, announced, err)
			}
		}
		if _, err := b.read(bytes.NewReader(make([]byte, limit+1)), -1, newRoom(1<<30)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("limit %d: read of a byte more = %v; want %v", limit, err, ErrTooLarge)
		}
	}
}

func TestRoomIsGivenBack(t *testing.T) {
	const limit = 1 << 18
	in := newRoom(1 << 30)
	b := newBodies(limit)
	for _, size := range []int{0, 4096, 4097, 100_000, limit} {
		got, err := b.read(bytes.NewReader(make([]byte, size)), -1, in)
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(cap(got.bytes)); in.all.Load() != want || in.unproven.Load() != want {
			t.Errorf("a body of %d bytes takes %d, of which %d not proven; want %d of both", size, in.all.Load(), in.unproven.Load(), want)
		}
		got.prove()
		if in.unproven.Load() != 0 {
			t.Errorf("proven it still takes %d of what is not", in.unproven.Load())
		}
		b.put(got)
		if in.all.Load() != 0 {
			t.Errorf("given back it still takes %d", in.all.Load())
		}
	}
	for name, reader := range map[string]io.Reader{
		"too large":   endless{},
		"ended early": io.MultiReader(bytes.NewReader(make([]byte, 5000)), iotest.ErrReader(io.ErrUnexpectedEOF)),
	} {
		if _, err := b.read(reader, -1, in); err == nil || in.all.Load() != 0 || in.unproven.Load() != 0 {
			t.Errorf("%s: %v; it still takes %d, %d", name, err, in.all.Load(), in.unproven.Load())
		}
	}
}

// Of what is not proven, large bodies never take all: small ones, as nearly all events are, still come in; and both
// leave half for what is proven.
func TestRoomForSmallBodiesAndProvenOnes(t *testing.T) {
	const large, small = 64 << 10, 4 << 10
	in := newRoom(1 << 20)
	fill := func(n int) (taken int64) {
		for in.take(n) == nil {
			taken += int64(n)
		}
		return taken
	}
	if got, want := fill(large), int64(384<<10); got != want {
		t.Errorf("large bodies take %d; want %d", got, want)
	}
	if got, want := fill(small), int64(128<<10); got != want {
		t.Errorf("small bodies then take %d; want %d", got, want)
	}
	if err := in.take(small); !errors.Is(err, ErrNoRoom) {
		t.Errorf("take of what is not there = %v; want %v", err, ErrNoRoom)
	}
	in.prove(512 << 10)
	if got, want := fill(small), int64(512<<10); got != want {
		t.Errorf("when all is proven, others take %d; want %d", got, want)
	}
	if in.all.Load() != 1<<20 {
		t.Errorf("all take %d; want all", in.all.Load())
	}
}

// In the least room for a limit every body up to the limit has a place, and in one byte less that of the limit has not.
func TestTheLeastRoomTakesEveryBody(t *testing.T) {
	const KiB, MiB = 1 << 10, 1 << 20
	limits := []int64{1, 300 * KiB, 1000 * KiB, MiB, MiB + 1, 3 * MiB}
	for size := int64(firstBuffer); size <= MiB; size *= growth {
		limits = append(limits, size-2, size-1, size, size+1, 2*size)
	}
	text := make([]byte, slices.Max(limits))
	for _, limit := range limits {
		least, b := leastRoom(limit), newBodies(limit)
		sizes := []int64{0, 1, limit - 1, limit, min(limit, 270_000)}
		for _, size := range bufferSizes(limit) {
			sizes = append(sizes, min(limit, int64(size)-1), min(limit, int64(size)), min(limit, int64(size)+1))
		}
		for more := range int64(9) { // what is divided by eight is cut off
			in := newRoom(least + more)
			for _, size := range sizes {
				for _, announced := range []int64{-1, size} {
					got, err := b.read(bytes.NewReader(text[:size]), announced, in)
					if err != nil {
						t.Fatalf("limit %d, room %d: a body of %d, %d announced: %v", limit, least+more, size, announced, err)
					}
					b.put(got)
				}
			}
			if got := in.all.Load(); got != 0 {
				t.Errorf("limit %d, room %d: %d are not given back", limit, least+more, got)
			}
		}
		if _, err := b.read(bytes.NewReader(text[:limit]), -1, newRoom(least-1)); !errors.Is(err, ErrNoRoom) {
			t.Errorf("limit %d, room %d: read = %v; want %v: less would do", limit, least-1, err, ErrNoRoom)
		}
	}
}
