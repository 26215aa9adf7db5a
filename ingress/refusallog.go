package ingress

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// maxRefusalLines is the number of log lines a second for each reason of a refusal: enough to see which clients are
// refused, and so few that a flood neither fills a disk nor hides other reasons.
const maxRefusalLines = 100

// A refusalLog limits the log lines of requests and connections that were refused. For those without a line it writes one
// line a second, with their number by reason. It is safe for concurrent use.
type refusalLog struct {
	log *zap.Logger

	mu      sync.Mutex
	counts  map[string]int // by reason, in this second; nil when none began
	omitted int
}

// allow reports whether a refusal has a log line and a span.
func (l *refusalLog) allow(reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts == nil {
		l.counts = map[string]int{}
		time.AfterFunc(time.Second, l.summarize)
	}
	l.counts[reason]++
	if l.counts[reason] <= maxRefusalLines {
		return true
	}
	l.omitted++
	return false
}

// summarize ends the second.
func (l *refusalLog) summarize() {
	l.mu.Lock()
	counts, omitted := l.counts, l.omitted
	l.counts, l.omitted = nil, 0
	l.mu.Unlock()
	if omitted == 0 {
		return
	}
	reasons := map[string]int{}
	for reason, n := range counts {
		if n > maxRefusalLines {
			reasons[reason] = n - maxRefusalLines
		}
	}
	l.log.Warn("refusals without a log line", zap.Int("count", omitted), zap.Any("reasons", reasons))
}
