package ingress

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

// Large unverified bodies leave memory for small ones, as nearly all events are. Both leave half for verified bodies.
func TestBudget_KeepsMemoryForSmallAndVerifiedBodies(t *testing.T) {
	t.Parallel()
	const large, small = 64 << 10, 4 << 10
	in := newBudget(1 << 20)
	fill := func(n int) (taken int64) {
		for in.reserve(n) == nil {
			taken += int64(n)
		}
		return taken
	}
	if got, want := fill(large), int64(384<<10); got != want {
		t.Errorf("large bodies reserve %d; want %d", got, want)
	}
	if got, want := fill(small), int64(128<<10); got != want {
		t.Errorf("small bodies then reserve %d; want %d", got, want)
	}
	if err := in.reserve(small); !errors.Is(err, errBodyMemory) {
		t.Errorf("reserve over the budget = %v; want %v", err, errBodyMemory)
	}
	in.verified(512 << 10)
	if got, want := fill(small), int64(512<<10); got != want {
		t.Errorf("when all are verified, others reserve %d; want %d", got, want)
	}
	if in.total.Load() != 1<<20 {
		t.Errorf("%d reserved; want all", in.total.Load())
	}
}

// A small body that comes while a large one waits for room does not take what is released for the large one.
func TestBudget_GivesRoomInTheOrderOfWaiting(t *testing.T) {
	t.Parallel()
	const large, small = 256 << 10, 16 << 10
	in := newBudget(1 << 20)
	var others sync.WaitGroup
	in.drop = func() bool {
		in.release(small, false)
		waiting, ended := in.waiting.Load(), make(chan struct{})
		others.Go(func() {
			defer close(ended)
			if err := in.reserveOrDrop(small); err != nil {
				t.Errorf("reserveOrDrop of a small body = %v; want room", err)
			}
		})
		for in.waiting.Load() == waiting {
			select {
			case <-ended:
				return true
			case <-time.After(time.Millisecond):
			}
		}
		return true
	}
	for in.reserve(small) == nil {
	}
	if err := in.reserveOrDrop(large); err != nil {
		t.Errorf("reserveOrDrop of a large body = %v; want room", err)
	}
	in.release(large, false)
	others.Wait()
}

// In the minimum budget of a limit every body up to the limit can be read; in one byte less, a body of the limit cannot.
func TestMinBudget_HasRoomForEveryBody(t *testing.T) {
	t.Parallel()
	const KiB, MiB = 1 << 10, 1 << 20
	limits := []int64{1, 300 * KiB, 1000 * KiB, MiB, MiB + 1, 3 * MiB}
	for size := int64(firstBuffer); size <= MiB; size *= growthFactor {
		limits = append(limits, size-2, size-1, size, size+1, 2*size)
	}
	text := make([]byte, slices.Max(limits))
	for _, limit := range limits {
		least, b := minBudget(limit), newBodyPool(limit)
		sizes := []int64{0, 1, limit - 1, limit, min(limit, 270_000)}
		for _, size := range bufferSizes(limit) {
			sizes = append(sizes, min(limit, int64(size)-1), min(limit, int64(size)), min(limit, int64(size)+1))
		}
		for more := range int64(9) { // a division by eight rounds down
			in := newBudget(least + more)
			for _, size := range sizes {
				for _, announced := range []int64{-1, size} {
					got, err := b.read(bytes.NewReader(text[:size]), announced, in)
					if err != nil {
						t.Fatalf("limit %d, budget %d: a body of %d, %d announced: %v", limit, least+more, size, announced, err)
					}
					got.recycle()
				}
			}
			if got := in.total.Load(); got != 0 {
				t.Errorf("limit %d, budget %d: %d are still reserved", limit, least+more, got)
			}
		}
		if _, err := b.read(bytes.NewReader(text[:limit]), -1, newBudget(least-1)); !errors.Is(err, errBodyMemory) {
			t.Errorf("limit %d, budget %d: read = %v; want %v: less is enough", limit, least-1, err, errBodyMemory)
		}
	}
}
