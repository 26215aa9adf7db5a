package workers

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
)

// The whole runtime over one server in the same process, without fsync: from fetch to settle, with claim and done
// both written. The figures that count are those of make bench; this one is for comparing two versions of the code.
func BenchmarkWorker(b *testing.B) {
	for _, concurrency := range []int{16, 64, 256} {
		b.Run(fmt.Sprintf("concurrency=%d", concurrency), func(b *testing.B) {
			var n atomic.Int64
			all := make(chan struct{})
			r := newFixture(b, Worker{Concurrency: concurrency}, func(context.Context, write) error { return nil })
			r.worker.Handlers = []Handler{Handle(codat.AnyWriteSuccessful, func(context.Context, write) error {
				if n.Add(1) == int64(b.N) {
					close(all)
				}
				return nil
			})}
			r.postAll("msg_000000000000000000000000", b.N)
			b.ResetTimer()
			r.start()
			<-all
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
