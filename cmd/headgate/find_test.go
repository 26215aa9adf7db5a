package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

func TestFind_TellsWhatBecameOfAnEvent(t *testing.T) {
	t.Parallel()
	var closed atomic.Bool
	closed.Store(true)
	w := workers.Worker{Name: "ledger", Begin: stream.BeginAll(), Handlers: []workers.Handler{
		workers.Handle(codat.AnyWriteSuccessful, func(context.Context, codat.Event[codat.Write]) error {
			if closed.Load() {
				return workers.Permanent(errors.New("the ledger is \x1b[31mclosed"))
			}
			return nil
		}),
	}}
	r := newBroker(t, w.Spec(), stream.WorkerSpec{Name: "idle", Types: []codat.Pattern{"*.write.successful"}, Begin: stream.BeginAll()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		s := workers.Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source, Grace: 30 * time.Second}
		ended <- workers.Run(ctx, s, process.New("tested", zap.NewNop()), w, func(context.Context, workers.Parts) (workers.Worker, error) { return w, nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	find := func(id string) string { return r.headgate(0, "find", id).out.String() }

	r.event("company.created", "msg_untaken")
	contains(t, find("msg_untaken"), "ledger: not taken", "idle: not taken", "#1,")

	r.event("invoices.write.successful", "msg_dead")
	streamtest.Wait(t, func() bool { return strings.Contains(find("msg_dead"), "ledger: dead after ") }, "msg_dead to be dead")
	contains(t, find("msg_dead"), "ledger: dead after 1 attempt, cause permanent, the last at ", "idle: not delivered", `1 of ledger: the ledger is `, "#2,")

	closed.Store(false)
	r.headgate(0, "dead", "replay", "1", "--redrive-id", "monday")
	streamtest.Wait(t, func() bool { return strings.Contains(find("msg_dead"), "ledger, redrive monday: done after 1 attempt") }, "the redrive of msg_dead")
	if got := find("msg_dead"); strings.Contains(got, "idle, redrive") || !strings.Contains(got, "ledger: dead after") {
		t.Errorf("the redrive is the ledger's, and the event stays dead there:\n%s", got)
	}

	r.quarantined("msg_strange", "no_type", []byte(`{}`))
	contains(t, find("msg_strange"), "in the quarantine: no_type")

	story := decode[struct {
		Stored  []struct{ Company, Push string }
		Workers []struct{ Worker, State, Redrive string }
		Letters []struct{ Number uint64 } `json:"dead_letters"`
	}](t, r.headgate(0, "find", "msg_dead", "--json").out.lines())[0]
	if len(story.Stored) != 2 || len(story.Workers) != 3 || len(story.Letters) != 1 {
		t.Errorf("the story is %+v; want two messages, three handlings and a letter", story)
	}
	// By company, connection and push operation, as the event's own headers have them.
	line := r.headgate(0, "find", story.Stored[0].Company).out.String()
	contains(t, line, "\tmsg_dead\tmonday\t")
	if ids := r.headgate(0, "find", story.Stored[0].Company, "--type", "company.*", "-o", "id").out.String(); ids != "msg_untaken\n" {
		t.Errorf("find --type company.* -o id prints %q; want msg_untaken", ids)
	}
}

func TestFind_SaysThatNothingHasTheID(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	contains(t, r.headgate(1, "find", "msg_1").err.String(), `nothing has the id "msg_1" in CODAT, which holds no event`, "claimed_id")
	r.event("company.created", "msg_1")
	contains(t, r.headgate(1, "find", "msg_2\x1b").err.String(), `nothing has the id "msg_2\x1b"`, "whose oldest message is of 20")
}

// The reason of a failed write has texts of customers: writes show prints it with --payload only, and find not at all.
func TestFind_LeavesOutTheReasonOfAWrite(t *testing.T) {
	t.Parallel()
	r := newBrokerWithWrites(t)
	head := codat.Head{Type: "invoices.write.unsuccessful", PushOperation: "push-1"}
	r.store(stream.Stored{ID: "msg_1", Head: head, Received: time.Now()}, []byte("{}"))
	for _, args := range [][]string{{"find", "msg_1"}, {"find", "msg_1", "--json"}} {
		out := r.headgate(0, args...).out.String()
		contains(t, out, "push-1", "Failed")
		if strings.Contains(out, "Larkspur") {
			t.Errorf("%v prints the reason: %s", args, out)
		}
	}
}

// Ids in an event are the sender's: those that no record can have do not keep the event from being found.
func TestFind_FindsAnEventWhoseIDsNoRecordCanHave(t *testing.T) {
	t.Parallel()
	r := newBroker(t, stream.WorkerSpec{Name: "connections", State: []string{state.ConnectionsName}}, stream.WorkerSpec{Name: "writes", State: []string{state.WritesName}})
	head := codat.Head{Type: "connection.connected", Company: "c 1", Connections: []string{"k.>"}, PushOperation: "p *"}
	r.store(stream.Stored{ID: "msg_1", Head: head, Received: time.Now()}, []byte("{}"))
	contains(t, r.headgate(0, "find", "msg_1").out.String(), "connection.connected", "company         c 1")
}
