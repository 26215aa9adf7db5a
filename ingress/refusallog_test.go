package ingress

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// Each reason has its own limit in each second, and the summary counts what was over it.
func TestRefusalLog_CountsWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		l := &refusalLog{log: zap.New(core)}
		allowed := map[string]int{}
		refuse := func(reason string, n int) {
			for range n {
				if l.allow(reason) {
					allowed[reason]++
				}
			}
		}
		for second := 1; second <= 2; second++ {
			refuse("path", maxRefusalLines+7)
			refuse("method", maxRefusalLines+2)
			refuse("no_match", 3)
			if want := map[string]int{"path": second * maxRefusalLines, "method": second * maxRefusalLines, "no_match": second * 3}; !maps.Equal(allowed, want) {
				t.Errorf("allowed %v; want %v", allowed, want)
			}
			time.Sleep(time.Second) // virtual
			synctest.Wait()
			lines := logs.TakeAll()
			if len(lines) != 1 {
				t.Fatalf("%d lines; want one", len(lines))
			}
			fields := lines[0].ContextMap()
			if got, want := fields["reasons"].(map[string]int), (map[string]int{"path": 7, "method": 2}); fields["count"] != int64(9) || !maps.Equal(got, want) {
				t.Errorf("the line counts %v %v; want 9 %v", fields["count"], got, want)
			}
		}
		refuse("no_match", maxRefusalLines)
		time.Sleep(time.Second) // virtual
		synctest.Wait()
		if n := logs.Len(); n != 0 {
			t.Errorf("%d lines when nothing was left out; want none", n)
		}
	})
}
