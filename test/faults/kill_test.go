//go:build faults

package faults

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/connections"
)

// Whatever is killed while Codat posts, the ingress, the server, the worker, or all at once: what was answered 2xx is
// in the stream, once, as it came, and it comes out as state at the other end.
func TestPromise1_KillingTheIngressAndTheServerLosesNoAcceptedEvent(t *testing.T) {
	b := newBroker(t, 1, stream.Layout{Workers: []stream.WorkerSpec{connections.Worker(connections.Store{}).Spec()}})
	var in *ingress
	codatSends, keyFile := newSender(t, func() string { return in.host() })
	in = newIngress(t, "ingress", b.url, keyFile, "--drain-delay", "0s")
	worker := launch(t, "worker-connections", "worker-connections", "", "--admin-listen", "127.0.0.1:0", "--nats-url", b.url, "--log-level", "warn")
	in.waitReady()

	stop := codatSends.flow(8, anything)
	codatSends.progress(100)
	for _, victims := range [][]*program{
		{in.program},
		b.node,
		{worker},
		b.node,
		{in.program},
		{in.program, b.node[0]},
		{b.node[0], in.program, worker},
	} {
		for _, victim := range victims {
			victim.kill()
		}
		for _, victim := range victims {
			victim.start()
		}
		codatSends.progress(100)
	}
	stop()
	codatSends.inTime()
	b.waitReady()
	codatSends.stored(b.js)

	// Codat's replays, days later: known, and not stored again.
	replayed := 0
	for _, e := range codatSends.events {
		if replayed++; replayed > 50 {
			break
		}
		if status := codatSends.try(e); status != 204 {
			t.Errorf("a replay of %s is answered %d; want 204", e.id, status)
		}
	}
	codatSends.stored(b.js)

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	store, err := state.OpenConnections(ctx, b.js, source)
	if err != nil {
		t.Fatal(err)
	}
	for id, e := range codatSends.events {
		var hand, n int
		if _, err := fmt.Sscanf(id, "msg_%d_%d", &hand, &n); err != nil {
			t.Fatal(err)
		}
		if e.subject != "codat.events.connection.connected" {
			continue
		}
		var state state.Connection
		wait(t, func() bool {
			state, err = store.Get(ctx, fmt.Sprintf("company-%d", hand), fmt.Sprintf("c-%d", n))
			return err == nil && state.Status == codat.Linked
		}, func() string { return fmt.Sprintf("the connection of %s is linked: %+v, %v", id, state, err) })
	}
}

// A cluster loses its leader, its majority, and nodes that neither answer nor die. Codat is answered in time, and what
// was answered 2xx is stored once.
func TestPromise1_AClusterThatLosesNodesLosesNoAcceptedEvent(t *testing.T) {
	b := newBroker(t, nodes, stream.Layout{})
	var in *ingress
	codatSends, keyFile := newSender(t, func() string { return in.host() })
	in = newIngress(t, "ingress", b.url, keyFile, "--drain-delay", "0s")
	in.waitReady()
	stop := codatSends.flow(8, anything)
	codatSends.progress(50)

	t.Log("the leader is killed")
	leader := b.leader()
	leader.kill()
	codatSends.progress(50)
	leader.start()
	b.waitReady()

	// A node that comes back replays what it had not finished. One that does it wrongly is seen when it comes back again.
	t.Log("each node is killed in turn, twice")
	for range 2 {
		for _, n := range b.node {
			n.kill()
			codatSends.progress(50)
			n.start()
			b.waitReady()
		}
	}

	t.Log("a leader to which another client is connected freezes")
	leader = b.leader()
	if serving := b.serving("ingress"); serving == leader {
		// Move the ingress elsewhere; it comes back to any node that is there.
		serving.kill()
		codatSends.progress(10)
		serving.start()
		b.waitReady()
		leader = b.leader()
	}
	elsewhere := leader != b.serving("ingress")
	leader.signal(syscall.SIGSTOP)
	if elsewhere {
		codatSends.progress(50)
	}
	leader.signal(syscall.SIGCONT)
	b.waitReady()
	codatSends.progress(50)

	t.Log("the node that serves the ingress freezes for longer than a request lasts")
	serving := b.serving("ingress")
	serving.signal(syscall.SIGSTOP)
	answered := total(codatSends.counts())
	wait(t, func() bool { return total(codatSends.counts()) >= answered+8 }, what("every waiting request is answered"))
	serving.signal(syscall.SIGCONT)
	codatSends.progress(50)
	b.waitReady()

	t.Log("the majority is killed")
	first, second := b.leader(), b.but(b.leader())
	first.kill()
	second.kill()
	answered = total(codatSends.counts())
	wait(t, func() bool { return total(codatSends.counts()) >= answered+8 }, what("every waiting request is answered"))
	first.start()
	second.start()
	codatSends.progress(50)
	b.waitReady()

	t.Log("all nodes are killed")
	for _, n := range b.node {
		n.kill()
	}
	for _, n := range b.node {
		n.start()
	}
	codatSends.progress(50)

	stop()
	codatSends.inTime()
	b.waitReady()
	codatSends.stored(b.js)
}

func total(counts map[int]int) (n int) {
	for _, count := range counts {
		n += count
	}
	return n
}

// A stream that is full refuses, and says so. It loses nothing that it accepted, and goes on when it has room again.
func TestPromise2_AFullStreamRefusesUntilItHasRoom(t *testing.T) {
	const room = 1 << 20
	b := newBroker(t, 1, stream.Layout{MaxBytes: room})
	var in *ingress
	codatSends, keyFile := newSender(t, func() string { return in.host() })
	in = newIngress(t, "ingress", b.url, keyFile, "--drain-delay", "0s", "--max-body", "64KiB")
	in.waitReady()

	event := func(n int) sent {
		return sent{
			fmt.Sprintf("msg_%d", n), "codat.events.company.created",
			fmt.Appendf(nil, `{"eventType":"company.created","pad":"%x"}`, make([]byte, 8<<10)),
		}
	}
	n, refused := 0, 0
	for ; refused == 0 && n < 1000; n++ {
		began := time.Now()
		switch status := codatSends.try(event(n)); status {
		case 204:
			codatSends.events[event(n).id] = event(n)
		case 503:
			refused = n
			if took := time.Since(began); took > codatWaits/2 {
				t.Errorf("a full stream is answered after %v; want it at once", took)
			}
		default:
			t.Fatalf("event %d is answered %d; want 204 or 503", n, status)
		}
	}
	if refused == 0 {
		st, err := b.js.Stream(t.Context(), source.Stream())
		if err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%d events of 16 KiB were accepted, and %d are stored in %d bytes", n, st.CachedInfo().State.Msgs, room)
	}
	var says string
	wait(t, func() bool {
		var status int
		status, says = in.probe("/readyz")
		return status == 503
	}, what("the ingress is not ready"))
	if want := "the stream is full"; !strings.Contains(says, want) || !strings.Contains(says, "provision --max-bytes") {
		t.Errorf("the ingress says %q; want it to say %q, and the cure", says, want)
	}
	codatSends.stored(b.js)

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := stream.Provision(ctx, b.js, stream.Layout{Source: source, MaxBytes: 8 * room}, false); err != nil {
		t.Fatalf("Provision with more room = %v", err)
	}
	codatSends.deliver(ctx, event(refused))
	in.waitReady()
	codatSends.stored(b.js)
}
