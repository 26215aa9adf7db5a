package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

const body = `{"eventType":"company.created","payload":{"id":"c-1"}}`

// bury stores a dead letter as a worker does.
func (r *broker) bury(worker, typ, company, id string) {
	r.Helper()
	msg, err := source.Message(stream.Stored{ID: id, Timestamp: "1", Signature: "v1,x", Head: codat.Head{Type: typ, Company: company, Connection: "x-" + strings.TrimPrefix(id, "msg_")}, Received: time.Now()}, []byte(body))
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = deadletter.Bury(ctx, r.publisher, source, deadletter.Letter{
		Worker: worker, Type: typ, WebhookID: id, Sequence: 7, Cause: "attempts",
		FirstError: "ledger is \x1b[31mclosed", LastError: "ledger is still closed", Attempts: 12,
		FirstAttempt: time.Now().Add(-time.Hour), LastAttempt: time.Now(), Host: "pod-1", Header: msg.Header, Body: msg.Data,
	})
	if err != nil {
		r.Fatal(err)
	}
}

// newBrokerWithLetters returns a server with four dead letters, numbered 1 to 4, of two workers.
func newBrokerWithLetters(t testing.TB) *broker {
	r := newBroker(t, stream.WorkerSpec{Name: "connections"}, stream.WorkerSpec{Name: "writes"})
	r.bury("connections", "connection.connected", "c-1", "msg_1")
	r.bury("connections", "connection.deleted", "c-2", "msg_2")
	r.bury("writes", "invoices.write.successful", "c-1", "msg_3")
	r.bury("connections", "connection.connected", "c-2", "msg_4")
	return r
}

// redrives returns the ids of a worker's redrives, in order.
func (r *broker) redrives(worker, typ string) []string {
	r.Helper()
	var ids []string
	for _, m := range r.messages(source.Stream(), source.RedriveSubject(worker, typ)) {
		ids = append(ids, m.Header.Get(stream.HeaderWebhookID))
	}
	return ids
}

func TestDeadList_FiltersLetters(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	middle := r.message(source.DeadStream(), 3).Time
	tests := []struct {
		name, args, want string
	}{
		{"all", "", "4 3 2 1"},
		{"of a worker", "--worker connections", "4 2 1"},
		{"of a type", "--type connection.connected", "4 1"},
		{"of a company", "--company c-1", "3 1"},
		{"of a connection", "--connection x-4", "4"},
		{"of a cause", "--cause attempts", "4 3 2 1"},
		{"of another cause", "--cause panic", ""},
		{"of events", "--id msg_1 --id msg_3", "3 1"},
		{"of all three", "--worker connections --type connection.connected --company c-2", "4"},
		{"since a time", "--since " + middle.Format(time.RFC3339Nano), "4 3"},
		{"until a time", "--until " + middle.Format(time.RFC3339Nano), "2 1"},
		{"since some time ago", "--since 3d", "4 3 2 1"},
		{"before a number", "--before 3", "2 1"},
		{"until long ago", "--until 2000-01-01", ""},
		{"of a worker without any", "--worker nobody", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			c := r.headgate(0, append([]string{"dead", "list", "--json"}, strings.Fields(tt.args)...)...)
			for _, l := range decode[deadletter.Letter](t, c.out.lines()) {
				got = append(got, fmt.Sprint(l.Number))
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("dead list %s = %q; want %q", tt.args, got, tt.want)
			}
			c = r.headgate(0, append([]string{"dead", "list"}, strings.Fields(tt.args)...)...)
			if len(c.out.lines()) != len(got) {
				t.Errorf("for people it prints %q; want %d lines", c.out.lines(), len(got))
			}
			contains(t, c.err.String(), plural(len(got), "dead letter"))
		})
	}
	c := r.headgate(0, "dead", "list")
	contains(t, c.out.lines()[3], "1\t", "\tconnections\tconnection.connected\tc-1\tmsg_1\tattempts\tledger is still closed")
	contains(t, r.headgate(0, "dead", "list", "-o", "wide").out.lines()[0], "\t12\tattempts\t")
	if strings.Contains(c.out.String(), "payload") {
		t.Errorf("it prints a payload: %s", &c.out)
	}
}

func TestDeadList_ListsOpenLettersOnly(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	r.headgate(0, "dead", "replay", "1", "3", "--redrive-id", "monday")
	c := r.headgate(0, "dead", "list")
	if got := c.out.lines(); len(got) != 2 || !strings.Contains(got[0], "msg_4") || !strings.Contains(got[1], "msg_2") {
		t.Errorf("dead list prints %q; want the letters of msg_2 and msg_4", got)
	}
	contains(t, c.err.String(), "2 dead letters", "2 more were given again: --all shows them")

	record := r.records()[0]
	by := record.User + "@" + record.Host
	c = r.headgate(0, "dead", "list", "--all")
	got := c.out.lines()
	if len(got) != 4 {
		t.Fatalf("dead list --all prints %q; want four letters", got)
	}
	contains(t, got[3], "msg_1", "\tgiven: waiting\t", "\t"+printable(by)+"\t", time.Now().UTC().Format("2006-"))
	contains(t, got[2], "msg_2", "\topen\t")
	contains(t, r.headgate(0, "dead", "show", "3").out.String(), "given: waiting", "given again", "by "+printable(by)+", redrive monday: waiting")
	contains(t, r.headgate(0, "dead", "list", "--all", "--json").out.lines()[1], `"state":"given"`, `"given":[{"redrive":"monday"`, `"outcome":"waiting"`)
}

// A terminal gets a page, and the number before which the next begins; a file gets all.
func TestDeadList_PrintsPages(t *testing.T) {
	t.Parallel()
	r := newBroker(t, stream.WorkerSpec{Name: "connections"})
	for i := range pageSize + 2 {
		r.bury("connections", "connection.connected", "c-1", fmt.Sprintf("msg_%d", i+1))
	}
	if got := r.headgate(0, "dead", "list").out.lines(); len(got) != pageSize+2 {
		t.Errorf("dead list prints %d lines into a file; want all %d letters", len(got), pageSize+2)
	}
	list := func(args ...string) (out, err *screen) {
		t.Helper()
		out, err = new(screen), new(screen)
		terminal := &terminal{out: out, err: err, width: 100, now: time.Now}
		if code := run(t.Context(), append([]string{"dead", "list", "--nats-url", r.URL}, args...), terminal); code != 0 {
			t.Fatalf("dead list %q exits with %d: %s", args, code, err)
		}
		return out, err
	}
	out, said := list()
	contains(t, said.String(), fmt.Sprintf("%d dead letters, and more: --before 3 lists them", pageSize))
	if got := out.lines(); len(got) != pageSize+1 {
		t.Errorf("dead list prints %d lines on a terminal; want a header and %d letters", len(got), pageSize)
	}
	_, said = list("--before", "3")
	contains(t, said.String(), "2 dead letters\n")
}

func TestDeadShow_PrintsPayloadOnRequest(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	c := r.headgate(0, "dead", "show", "1")
	contains(t, c.out.String(), "connections", "connection.connected", "msg_1", "c-1", "pod-1", "12", `ledger is \x1b[31mclosed`, "ledger is still closed", "54 bytes")
	for _, word := range []string{"payload", "\x1b", "v1,x"} {
		if strings.Contains(c.out.String(), word) {
			t.Errorf("it prints %q, which was not requested: %s", word, &c.out)
		}
	}
	c = r.headgate(0, "dead", "show", "1", "--payload")
	contains(t, c.out.String(), `"eventType": "company.created"`, "webhook-signature: v1,x")

	type shown struct {
		deadletter.Letter
		Header nats.Header `json:"header"`
		payload
	}
	got := decode[shown](t, r.headgate(0, "dead", "show", "2", "--json").out.lines())[0]
	if got.Number != 2 || got.WebhookID != "msg_2" || got.payload.Body != nil || got.Header != nil {
		t.Errorf("dead show --json = %+v; want letter 2 without its body and headers", got)
	}
	got = decode[shown](t, r.headgate(0, "dead", "show", "2", "--json", "--payload").out.lines())[0]
	if string(got.payload.Body) != body || got.Header.Get(stream.HeaderWebhookID) != "msg_2" {
		t.Errorf("dead show --json --payload = %+v; want the body and the headers too", got)
	}
	contains(t, r.headgate(1, "dead", "show", "9").err.String(), "headgate dead list")
}

func TestDeadReplay_GivesLetterToItsWorkerOnly(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	c := r.headgate(0, "dead", "replay", "2", "3")
	contains(t, c.out.String(), "2 dead letters of 2 given again")
	if got := r.redrives("connections", "connection.deleted"); len(got) != 1 || got[0] != "msg_2" {
		t.Errorf("connections got %q; want msg_2", got)
	}
	if got := r.redrives("writes", "invoices.write.successful"); len(got) != 1 || got[0] != "msg_3" {
		t.Errorf("writes got %q; want msg_3", got)
	}
	m := r.messages(source.Stream(), source.RedriveSubject("connections", "connection.deleted"))[0]
	redrive := m.Header.Get(stream.HeaderRedrive)
	contains(t, c.out.String(), "redrive "+redrive+":")
	if string(m.Data) != body {
		t.Errorf("the body is %s; want it to the byte", m.Data)
	}
	wantHeaders(t, m.Header, map[string]string{
		stream.HeaderWebhookSignature: "v1,x",
		"ce-subject":                  "c-2",
		jetstream.MsgIDHeader:         "redrive:connections:" + redrive + ":msg_2",
	})
}

func TestDeadReplay_IsRecorded(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	r.headgate(0, "dead", "replay", "--worker", "connections", "--company", "c-2", "--redrive-id", "monday")
	got := r.records()
	if len(got) != 2 {
		t.Fatalf("%d records; want one before and one after", len(got))
	}
	for i, step := range []string{"begin", "end"} {
		d := got[i]
		if d.Command != "dead replay" || d.Step != step || d.Redrive != "monday" || d.Count != 2 || d.Given != 2*i ||
			d.Chosen["worker"] != "connections" || d.Chosen["company"] != "c-2" || len(d.Chosen) != 2 {
			t.Errorf("record %d = %+v", i+1, d)
		}
	}
}

func TestDeadReplay_ContinuesUnderItsID(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	r.headgate(0, "dead", "replay", "1", "--redrive-id", "monday")
	c := r.headgate(0, "dead", "replay", "--worker", "connections", "--redrive-id", "monday", "--json")
	want := operator.RedriveResult{Redrive: "monday", Chosen: 3, Given: 2, Before: 1}
	if got := decode[operator.RedriveResult](t, c.out.lines()); len(got) != 1 || got[0] != want {
		t.Errorf("it prints %+v; want %+v", got, want)
	}
	if got := r.redrives("connections", "connection.connected"); strings.Join(got, " ") != "msg_1 msg_4" {
		t.Errorf("connections got %q; want each once", got)
	}
	// Without the id it is another redrive, which gives only what was not given, or all with --again.
	c = r.headgate(0, "dead", "replay", "--worker", "connections", "--dry-run")
	contains(t, c.out.String(), "dry run: 0 dead letters would be given again, 3 left out (3 given): --again")
	contains(t, r.headgate(0, "dead", "replay", "1").out.String(), "0 dead letters of 0 given again, 1 left out (1 given)")
	r.headgate(0, "dead", "replay", "1", "--again")
	if got := r.redrives("connections", "connection.connected"); len(got) != 3 {
		t.Errorf("connections got %q; want msg_1 once more", got)
	}
}

func TestDeadReplay_DryRunGivesNothing(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	c := r.headgate(0, "dead", "replay", "--all", "--dry-run")
	contains(t, c.out.String(), "msg_1", "msg_2", "msg_3", "msg_4", "dry run: 4 dead letters would be given again")
	c = r.headgate(0, "dead", "replay", "--type", "connection.connected", "--dry-run", "--json")
	if got := c.out.lines(); len(got) != 3 || !strings.Contains(got[2], `"chosen":2`) {
		t.Errorf("it prints %q; want two letters and the count", got)
	}
	if st, err := r.JS.Stream(t.Context(), source.Stream()); err != nil || st.CachedInfo().State.Msgs != 0 {
		t.Errorf("the stream has %+v, %v; want nothing in it", st.CachedInfo().State, err)
	}
	if d := r.records(); len(d) != 0 {
		t.Errorf("it is written down: %+v", d)
	}
}

func TestDeadReplay_TakesNumbersFromTheInput(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	replay := func(want int, input string, args ...string) *command {
		return begin(t, input, append([]string{"dead", "replay", "-", "--nats-url", r.URL}, args...)...).exit(want)
	}
	ids := r.headgate(0, "dead", "list", "--worker", "connections", "-o", "id").out.String()
	if ids != "4\n2\n1\n" {
		t.Fatalf("dead list -o id prints %q; want the numbers of three letters", ids)
	}
	contains(t, replay(0, ids).out.String(), "3 dead letters of 3 given again")
	if got := r.redrives("connections", "connection.connected"); strings.Join(got, " ") != "msg_1 msg_4" {
		t.Errorf("connections got %q; want msg_1 and msg_4", got)
	}
	contains(t, replay(1, "").err.String(), "the input has no number")
	contains(t, replay(2, "1 \x1b[2J").err.String(), `"\x1b[2J" is no number`)
	contains(t, replay(2, "0").err.String(), `"0" is no number`)
	contains(t, r.headgate(2, "dead", "replay", "1", "-").err.String(), `"-" is no number`)
	contains(t, r.headgate(2, "dead", "replay", "-", "--all").err.String(), "choose the dead letters")
}

func TestDeadReplay_RefusesLimitsThatAreNone(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{
		"--limit=0": "--limit", "--limit=-1": "--limit", "--rate=NaN": "--rate must be", "--rate=Inf": "--rate must be", "--rate=0": "--rate must be",
	} {
		contains(t, begin(t, "", "dead", "replay", "--all", flag).exit(2).err.String(), want)
		contains(t, begin(t, "", "replay", "--worker=connections", "--type=>", flag).exit(2).err.String(), want)
	}
	contains(t, begin(t, "", "replay", "--worker=connections", "--until=0001-01-01T00:00:00Z").exit(2).err.String(), "must be a duration before now")
	contains(t, begin(t, "", "dead", "list", "--limit=0").exit(2).err.String(), "leave it out for all")
}

func TestDeadReplay_AcceptsEmptySelection(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	contains(t, r.headgate(0, "dead", "replay", "--company", "nobody").out.String(), "0 dead letters of 0 given again")
	contains(t, r.headgate(1, "dead", "replay", "1", "9").err.String(), "dead letter 9")
	if got := r.redrives("connections", "connection.connected"); len(got) != 0 {
		t.Errorf("connections got %q, although one of the numbers is wrong", got)
	}
}

func TestDeadReplay_RefusesWorkerWithoutConsumer(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	if err := r.JS.DeleteConsumer(t.Context(), source.Stream(), "writes"); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"--all", "3", "1 3", "--worker writes", "--worker writes --dry-run"} {
		c := r.headgate(1, append([]string{"dead", "replay"}, strings.Fields(args)...)...)
		contains(t, c.err.String(), `no worker "writes" is provisioned on CODAT`, "run headgate provision")
	}
	contains(t, r.headgate(1, "dead", "replay", "3").err.String(), "dead letter 3")
	if got, records := r.redrives("connections", "connection.connected"), r.records(); len(got) != 0 || len(records) != 0 {
		t.Errorf("connections got %q, and the records are %+v; want nothing given", got, records)
	}
}

// Another publisher than a worker stored them.
func TestDeadReplay_GivesLettersWithoutID(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	for range 3 {
		m := nats.NewMsg(source.DeadSubject("connections", "company.created"))
		m.Header.Set(deadletter.HeaderWorker, "connections")
		if _, err := r.JS.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	contains(t, r.headgate(0, "dead", "replay", "5", "6", "7").out.String(), "3 dead letters of 3 given again")
	if got := r.redrives("connections", "company.created"); len(got) != 3 {
		t.Errorf("connections got %q; want three", got)
	}
}

func TestDeadReplay_KeepsRate(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	began := time.Now()
	r.headgate(0, "dead", "replay", "--all", "--rate", "20")
	if took, least := time.Since(began), 3*time.Second/20; took < least {
		t.Errorf("4 letters at 20 a second took %s; want %s at least", took, least)
	}
}

func TestDeadReplay_ReportsInterrupt(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	c := begin(t, "", "dead", "replay", "--all", "--rate", "0.001", "--redrive-id", "slow", "--nats-url", r.URL)
	streamtest.Wait(t, func() bool { return len(r.redrives("connections", "connection.connected")) == 1 }, "the first is given")
	c.stop()
	c.exit(130)
	contains(t, c.out.String(), "redrive slow: 1 dead letter of 4 given again")
	contains(t, c.err.String(), "stopped before dead letter 2")
	d := r.records()
	if len(d) != 2 || d[1].Given != 1 || d[1].Error == "" {
		t.Errorf("the records are %+v; want the second to say that it was stopped after one", d)
	}
}

// What no run can give is not left to another one.
func TestDeadReplay_CountsWhatIsLeft(t *testing.T) {
	t.Parallel()
	r := newBroker(t, bookkeeper(nil).Spec())
	for i, body := range []string{"one", "two"} {
		letter := deadletter.Letter{
			Worker: "bookkeeper", Type: "company.created", WebhookID: "sequence-7", Sequence: 7, LastAttempt: time.Now().Add(time.Duration(i) * time.Second), Body: []byte(body),
		}
		if err := deadletter.Bury(t.Context(), r.publisher, source, letter); err != nil {
			t.Fatal(err)
		}
	}
	c := r.headgate(1, "dead", "replay", "--all", "--json")
	contains(t, c.err.String(), "dead letter 2 was not given: it has the webhook-id and worker of dead letter 1")
	if strings.Contains(c.err.String(), "To go on") {
		t.Errorf("it says\n%s\nwant no command that goes on: nothing is left", &c.err)
	}
	if got, want := decode[operator.RedriveResult](t, c.out.lines())[0], (operator.RedriveResult{Chosen: 2, Given: 1, NotGiven: 1}); got.Given != want.Given || got.NotGiven != want.NotGiven {
		t.Errorf("it reports %+v; want %+v", got, want)
	}
}

func TestDeadReplay_LeavesRoomForNewEvents(t *testing.T) {
	t.Parallel()
	r := newBrokerWithLetters(t)
	const room = 16 << 10
	streamtest.Provision(t, r.JS, stream.Layout{Source: source, MaxBytes: room})
	for i, used := 0, uint64(0); used <= room*9/10; i++ {
		r.store(stream.Stored{ID: fmt.Sprintf("msg_fill_%d", i), Head: codat.Head{Type: "company.created"}}, []byte("{}"))
		st, err := r.JS.Stream(t.Context(), source.Stream())
		if err != nil {
			t.Fatal(err)
		}
		used = st.CachedInfo().State.Bytes
	}
	c := r.headgate(1, "dead", "replay", "1")
	contains(t, c.err.String(), "90 %", "provision --max-bytes")
	contains(t, c.out.String(), "0 dead letters of 1 given again")
}

// The worker's claim says dead, and the event reaches the handler all the same.
func TestDeadReplay_RunsHandlerOfDeadEvent(t *testing.T) {
	t.Parallel()
	var closed atomic.Bool
	closed.Store(true)
	done := make(chan codat.Event[codat.Company], 1)
	w := workers.Worker{Name: "tested", Begin: stream.BeginAll(), Handlers: []workers.Handler{
		workers.Handle(codat.CompanyCreated, func(_ context.Context, e codat.Event[codat.Company]) error {
			if closed.Load() {
				return workers.Permanent(errors.New("the ledger is closed"))
			}
			done <- e
			return nil
		}),
	}}
	r := newBroker(t, w.Spec())
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
	r.event("company.created", "msg_1")
	streamtest.Wait(t, func() bool {
		return strings.Contains(r.headgate(0, "dead", "list").out.String(), "msg_1")
	}, "the dead letter of msg_1")

	closed.Store(false)
	r.headgate(0, "dead", "replay", "1", "--redrive-id", "monday")
	select {
	case e := <-done:
		if e.WebhookID != "msg_1" || e.Redrive != "monday" || e.Attempt != 1 {
			t.Errorf("the handler got %s, redrive %q, attempt %d; want msg_1, monday, 1", e.WebhookID, e.Redrive, e.Attempt)
		}
	case <-time.After(time.Minute):
		t.Fatal("the handler was not called again")
	}
	streamtest.Wait(t, func() bool {
		return strings.Contains(r.headgate(0, "dead", "list", "--all").out.String(), "\tdone\t")
	}, "the dead letter of msg_1 is done")
	if got := r.headgate(0, "dead", "list").out.lines(); len(got) != 0 {
		t.Errorf("dead list prints %q; want nothing open", got)
	}
	contains(t, r.headgate(0, "dead", "replay", "--all").out.String(), "0 dead letters of 0 given again, 1 left out (1 done)")
}
