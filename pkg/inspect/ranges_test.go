package inspect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestReadNewestFirst_TakesGrowingRangesInOrder(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	running, most := 0, 0
	both := make(chan struct{})
	var got []string
	read := func(_ context.Context, after, through uint64) (string, error) {
		mu.Lock()
		running++
		if most = max(most, running); most == rangesAtOnce {
			select {
			case <-both:
			default:
				close(both)
			}
		}
		mu.Unlock()
		<-both // one waits for the other
		mu.Lock()
		running--
		mu.Unlock()
		return fmt.Sprintf("%d-%d", after+1, through), nil
	}
	take := func(after uint64, v string) error {
		if !strings.HasPrefix(v, fmt.Sprintf("%d-", after+1)) {
			t.Errorf("the range behind %d is %s", after, v)
		}
		got = append(got, v)
		return nil
	}
	if err := readNewestFirst(t.Context(), span{after: 3, through: 20, size: 2, largest: 6}, read, take); err != nil {
		t.Fatal(err)
	}
	if want := []string{"19-20", "15-18", "9-14", "4-8"}; !slices.Equal(got, want) || most != rangesAtOnce {
		t.Errorf("it takes %q, and reads %d at once; want %q and %d", got, most, want, rangesAtOnce)
	}
}

// When one range fails or is the last that is wanted, what is read ahead is cancelled before the function returns.
func TestReadNewestFirst_EndsWhatItReadsAhead(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"a read that fails": true, "a take that wants no more": false} {
		want, ended := errors.New(name), make(chan struct{}, rangesAtOnce)
		err := readNewestFirst(t.Context(), span{through: 9, size: 3, largest: 3}, func(ctx context.Context, _, through uint64) (int, error) {
			if through == 9 && fails {
				return 0, want
			}
			if through == 9 {
				return 0, nil
			}
			<-ctx.Done()
			ended <- struct{}{}
			return 0, ctx.Err()
		}, func(uint64, int) error { return want })
		if !errors.Is(err, want) || len(ended) != 1 {
			t.Errorf("%s: readNewestFirst = %v, and %d of 1 that were read ahead ended", name, err, len(ended))
		}
	}
}
