package workers

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// The whole runtime over one server in the same process, without fsync: from fetch to settle, with claim and done
// both written. The figures that count are those of make bench; this one is for comparing two versions of the code.
func BenchmarkWorker(b *testing.B) {
	for _, concurrency := range []int{16, 64, 256} {
		b.Run(fmt.Sprintf("concurrency=%d", concurrency), func(b *testing.B) {
			var n atomic.Int64
			all := make(chan struct{})
			r := newRig(b, Worker{Concurrency: concurrency}, func(context.Context, write) error { return nil })
			r.worker.Handlers = []Handler{Handle(codat.AnyWriteSuccessful, func(context.Context, write) error {
				if n.Add(1) == int64(b.N) {
					close(all)
				}
				return nil
			})}
			preload(b, r, b.N)
			b.ResetTimer()
			r.start()
			<-all
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func preload(b *testing.B, r *rig, n int) {
	b.Helper()
	body := fmt.Appendf(nil, `{"id":"e","eventType":"bills.write.successful","payload":{"id":"push","status":"Success","pad":%q}}`, strings.Repeat("x", 100))
	head, err := codat.Read(body)
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		m, err := source.Message(stream.Stored{ID: fmt.Sprintf("msg_%024d", i), Head: head, Received: time.Now()}, body)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.JS.PublishMsgAsync(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}); err != nil {
			b.Fatal(err)
		}
	}
	<-r.JS.PublishAsyncComplete()
}
