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
					got, err := b.read(reader(bytes.NewReader(want)), announced)
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
			if got, err := newBodies(limit).read(tt.reader, tt.announced); !errors.Is(err, tt.want) || got != nil {
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
	if _, err := b.read(watch, limit); !errors.Is(err, ErrBroken) {
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
			got, err := b.read(bytes.NewReader(make([]byte, limit)), announced)
			if err != nil || int64(len(got.bytes)) != limit {
				t.Errorf("limit %d, %d announced: read = %v; want a body of the limit", limit, announced, err)
			}
		}
		if _, err := b.read(bytes.NewReader(make([]byte, limit+1)), -1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("limit %d: read of a byte more = %v; want %v", limit, err, ErrTooLarge)
		}
	}
}
