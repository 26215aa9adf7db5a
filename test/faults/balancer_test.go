//go:build faults

package faults

import (
	"net/http"
	"sync"
	"testing"
	"time"
)

// A balancer sends to those replicas that are ready, in turn. It looks every few milliseconds.
type balancer struct {
	t     testing.TB
	mu    sync.Mutex
	ready []string
	next  int
}

func newBalancer(t testing.TB) *balancer { return &balancer{t: t} }

// over begins to look at the replicas, which must be ready.
func (b *balancer) over(replicas []*ingress) {
	look := func() {
		var ready []string
		for _, r := range replicas {
			if status, _ := r.probe("/readyz"); status == http.StatusOK {
				ready = append(ready, r.public)
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(ready) > 0 { // with no ready one, any is as good
			b.ready = ready
		}
	}
	look()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(50 * time.Millisecond):
				look()
			}
		}
	}()
	b.t.Cleanup(func() {
		close(end)
		<-ended
	})
}

func (b *balancer) pick() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	return b.ready[b.next%len(b.ready)]
}
