package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestReplay_RunsHandlerOfDoneEventOnce(t *testing.T) {
	t.Parallel()
	handled := make(chan codat.Event[codat.Company], 16)
	w := bookkeeper(handled)
	r := newBroker(t, w.Spec())
	r.work(w)
	r.event("company.created", "done_1")
	next := func() codat.Event[codat.Company] {
		select {
		case e := <-handled:
			return e
		case <-time.After(time.Minute):
			t.Fatal("the handler was not called")
			panic("unreachable")
		}
	}
	first := next()
	for range 2 { // the second time nothing is given
		r.headgate(0, "replay", "--worker", "bookkeeper", "--id", "done_1", "--redrive-id", "monday")
	}
	again := next()
	if again.WebhookID != "done_1" || again.Redrive != "monday" || again.Attempt != 1 || again.Sequence != first.Sequence || string(again.Body) != string(first.Body) {
		t.Errorf("the handler got %s, redrive %q, attempt %d, sequence %d; want done_1, monday, 1, %d and the same body", again.WebhookID, again.Redrive, again.Attempt, again.Sequence, first.Sequence)
	}
	r.event("company.created", "done_2")
	if e := next(); e.WebhookID != "done_2" {
		t.Errorf("the handler got %s, redrive %q; want done_2 only", e.WebhookID, e.Redrive)
	}
	r.idle(w.Name)
	contains(t, r.headgate(0, "audit").out.String(), "bookkeeper: 2 events: 2 done")
}

// newBrokerWithEvents returns a server with events of two workers and two companies, numbered 1 to 5.
func newBrokerWithEvents(t testing.TB) *broker {
	r := newBroker(t, bookkeeper(nil).Spec(), stream.WorkerSpec{Name: "other", Types: []codat.Pattern{"company.*", "connection.*"}})
	for i, e := range []struct{ typ, company, connection string }{
		{"company.created", "c-1", ""}, {"connection.connected", "c-1", "x-1"}, {"company.created", "c-2", ""}, {"company.deleted", "c-2", ""}, {"company.created", "c-2", ""},
	} {
		r.store(stream.Stored{ID: fmt.Sprintf("msg_%d", i+1), Timestamp: "1", Signature: "v1,x", Head: codat.Head{Type: e.typ, Company: e.company, Connection: e.connection}, Received: time.Now()}, []byte(body))
	}
	return r
}

func TestReplay_FiltersEvents(t *testing.T) {
	t.Parallel()
	r := newBrokerWithEvents(t)
	third := r.message(source.Stream(), 3).Time
	tests := []struct{ name, args, want string }{
		{"all that the worker takes", "--worker bookkeeper --all", "1 3 5"},
		{"all that another takes", "--worker other --all", "1 2 3 4 5"},
		{"by id", "--worker other --id msg_2 --id msg_4", "2 4"},
		{"by type", "--worker other --type company.deleted", "4"},
		{"by company", "--worker bookkeeper --company c-2", "3 5"},
		{"since", "--worker bookkeeper --since " + third.Format(time.RFC3339Nano), "3 5"},
		{"until", "--worker other --until " + third.Format(time.RFC3339Nano), "1 2"},
		{"by connection", "--worker other --connection x-1", "2"},
		{"the oldest", "--worker other --limit 2", "1 2"},
		{"the oldest of a company", "--worker other --company c-2 --limit 1", "3"},
		{"by all of them", "--worker other --company c-2 --type company.created --since 1h --id msg_5", "5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := r.headgate(0, append(strings.Fields("replay --dry-run --json "), strings.Fields(tt.args)...)...)
			lines := c.out.lines()
			var got []string
			for _, e := range decode[printedEvent](t, lines[:len(lines)-1]) {
				got = append(got, fmt.Sprint(e.Sequence))
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("it chooses %q; want %q", got, tt.want)
			}
			if last := decode[operator.RedriveResult](t, lines[len(lines)-1:])[0]; last.Chosen != len(got) || !last.DryRun || last.Given != 0 {
				t.Errorf("it reports %+v", last)
			}
		})
	}
	contains(t, r.headgate(0, "replay", "--dry-run", "--worker", "other", "--id", "msg_2").out.String(), "2\t", "\tmsg_2\t", "dry run: 1 event would be given to other again")
	if n := len(r.messages(source.Stream(), source.RedriveSubject("other", "company.created"))) + len(r.records()); n != 0 {
		t.Errorf("the dry runs have written %d messages", n)
	}
}

func TestReplay_IsRecordedAndContinues(t *testing.T) {
	t.Parallel()
	r := newBrokerWithEvents(t)
	c := r.headgate(0, "replay", "--worker", "bookkeeper", "--company", "c-1", "--redrive-id", "monday")
	contains(t, c.err.String(), "redrive monday: giving 1 event to bookkeeper again")
	contains(t, c.out.String(), "redrive monday: 1 event of 1 given to bookkeeper again")
	c = r.headgate(0, "replay", "--worker", "bookkeeper", "--all", "--redrive-id", "monday", "--json")
	if got := decode[operator.RedriveResult](t, c.out.lines())[0]; got != (operator.RedriveResult{Redrive: "monday", Chosen: 3, Given: 2, Before: 1}) {
		t.Errorf("it reports %+v", got)
	}
	if got := r.redrives("bookkeeper", "company.created"); strings.Join(got, " ") != "msg_1 msg_3 msg_5" {
		t.Errorf("given are %q", got)
	}
	wantHeaders(t, r.messages(source.Stream(), source.RedriveSubject("bookkeeper", "company.created"))[1].Header, map[string]string{
		stream.HeaderRedrive: "monday", "headgate-sequence": "3", stream.HeaderWebhookSignature: "v1,x",
	})
	d := r.records()
	if len(d) != 4 || d[0].Command != "replay" || d[0].Step != "begin" || d[0].Chosen["company"] != "c-1" || d[0].Chosen["worker"] != "bookkeeper" ||
		d[3].Step != "end" || d[3].Given != 2 || d[3].Before != 1 || d[3].Chosen["all"] != true {
		t.Errorf("the records are %+v", d)
	}
}

func TestReplay_RefusesIDThatChoosesNoEvent(t *testing.T) {
	t.Parallel()
	r := newBrokerWithEvents(t)
	for _, args := range []string{
		"--id msg_9",                        // not stored
		"--id msg_1 --id msg_9",             // one of two
		"--id msg_9 --dry-run",              //
		"--id msg_2",                        // of another type than the worker takes
		"--id msg_1 --company c-2",          // of another company
		"--id msg_1 --type company.deleted", // of another type
	} {
		c := r.headgate(1, append([]string{"replay", "--worker", "bookkeeper"}, strings.Fields(args)...)...)
		contains(t, c.err.String(), "no event has the webhook-id \"msg_", "check the ID")
	}
	if got, records := r.redrives("bookkeeper", "company.created"), r.records(); len(got) != 0 || len(records) != 0 {
		t.Errorf("given are %q, and the records are %+v; want nothing given", got, records)
	}
}

func TestReplay_ReportsInterrupt(t *testing.T) {
	t.Parallel()
	r := newBrokerWithEvents(t)
	c := begin(t, "", "replay", "--worker", "bookkeeper", "--all", "--rate", "0.001", "--nats-url", r.URL)
	streamtest.Wait(t, func() bool { return len(r.redrives("bookkeeper", "company.created")) == 1 }, "the first is given")
	c.stop()
	c.exit(130)
	contains(t, c.err.String(), "stopped before event 3")
	if d := r.records(); len(d) != 2 || d[1].Given != 1 || d[1].Error == "" {
		t.Errorf("the records are %+v; want the second to say that it was stopped after one", d)
	}
}

// The command that an interrupted replay prints gives the rest, nothing twice, and nothing that was stored since.
func TestReplay_PrintsTheCommandThatGoesOn(t *testing.T) {
	t.Parallel()
	r := newBroker(t, bookkeeper(nil).Spec())
	const events = 40
	for i := range events {
		r.event("company.created", fmt.Sprintf("msg_%d", i))
	}
	given := func() []string { return r.redrives("bookkeeper", "company.created") }
	c := begin(t, "", "replay", "--worker", "bookkeeper", "--since", "1h", "--type", "company.>", "--rate", "0.001", "--nats-url", strings.Replace(r.URL, "nats://", "nats://user:password@", 1))
	streamtest.Wait(t, func() bool { return len(given()) == 1 }, "the first event to be given")
	c.stop()
	c.exit(130)
	contains(t, c.err.String(), "chosen to bookkeeper: 40 events: 40 company.created", "stopped before event", "To go on, run:")
	contains(t, c.out.String(), " of 40 given to bookkeeper again")
	before := len(given())
	r.event("company.created", "later")

	lines := c.err.lines()
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "  headgate replay ") })
	if at < 0 {
		t.Fatalf("it prints no command:\n%s", &c.err)
	}
	next := strings.ReplaceAll(lines[at], "'", "") // of the pattern, which a shell would take for a file
	if strings.Contains(next, "password") || !strings.Contains(lines[at], "'company.>'") {
		t.Errorf("it prints %s", lines[at])
	}
	c = headgate(t, 0, append(strings.Fields(next)[1:], "--rate", "5000")...)
	contains(t, c.out.String(), fmt.Sprintf("%d events of 40 given to bookkeeper again, %d given before", events-before, before))
	all := given()
	slices.Sort(all)
	if len(all) != events || len(slices.Compact(all)) != events || slices.Contains(all, "later") {
		t.Errorf("given are %q; want each of the 40 events once", all)
	}
}

func TestRedrive_PrintsTheCommandThatGoesOn(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"dead replay 3 4 --yes":                           "headgate dead replay 3 4 --yes --redrive-id=x",
		"dead replay - --redrive-id old --rate=5":         "headgate dead replay - --rate=5 --redrive-id=x",
		"dead replay 3 --nats-url=nats://u:p@h:4222 -o a": "headgate dead replay 3 --nats-url=nats://h:4222 -o a --redrive-id=x",
		"dead replay --redrive-id=old -- 3 4":             "headgate dead replay --redrive-id=x -- 3 4",
	} {
		if got := (redriveRun{numbers: true}).again(strings.Fields(args), "x"); got != want {
			t.Errorf("after %q it is %q; want %q", args, got, want)
		}
	}
	if got := operator.ShellWord("it's"); got != `'it'\''s'` {
		t.Errorf("shellWord = %s", got)
	}
}
