package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
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

// With the index that headgate watch keeps, find reads nothing else, and says the same as without.
func TestFind_AsksTheIndexOfWatch(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	for _, id := range []string{"msg_1", "msg_2", "3d1f0e36-7a6a-4cf6-95e3-1f0b8cf0f1a5"} {
		r.event("company.created", id)
	}
	r.event("company.deleted", "msg_4")
	const company = "c0ffee00-0000-4000-8000-00000000000a"
	bodyID := func(typ string) string {
		example, _ := examples.Of(typ)
		head, err := codat.Read(example.Body)
		if err != nil || head.EventID == "" {
			t.Fatalf("the example of %s has the id %q, %v", typ, head.EventID, err)
		}
		return head.EventID
	}
	asked := [][]string{
		{"find", company},
		{"find", company, "--limit", "2"},
		{"find", company, "--before", "3"},
		{"find", company, "-o", "id"},
		{"find", company, "-o", "json"},
		{"find", company, "--since", "1h"},
		{"find", "msg_2"},
		{"find", "3d1f0e36-7a6a-4cf6-95e3-1f0b8cf0f1a5"},
		{"find", "msg_2", "-o", "json"},
		{"find", "msg_2", "-o", "id"},
		{"find", bodyID("company.created"), "-o", "id"},
		{"find", bodyID("company.deleted")},
	}
	const scans = "no headgate watch runs that keeps an index: reading the stream"
	var want []string
	for _, args := range asked {
		got := r.headgate(0, args...)
		contains(t, got.err.String(), scans)
		want = append(want, got.out.String())
	}
	contains(t, want[0], "4\t", "msg_1")
	contains(t, want[1], "msg_4", "3d1f0e36")
	if strings.Contains(want[1], "msg_2") {
		t.Errorf("--limit 2 lists\n%s\nwant the two newest", want[1])
	}
	contains(t, r.headgate(0, "find", company, "--limit", "2").err.String(), "2 events, and more: --before 3 lists them")
	contains(t, want[2], "msg_2", "msg_1")
	if strings.Contains(want[2], "3d1f0e36") {
		t.Errorf("--before 3 lists\n%s\nwant what is older", want[2])
	}
	const three = "3d1f0e36-7a6a-4cf6-95e3-1f0b8cf0f1a5\nmsg_2\nmsg_1\n"
	if want[3] != "msg_4\n"+three || want[10] != three || want[9] != "msg_2\n" {
		t.Errorf("-o id prints %q and %q; want the ids, newest first", want[3], want[9])
	}
	contains(t, want[6], "webhook-id      msg_2", "#2,")
	contains(t, want[7], "webhook-id      3d1f0e36", "#3,")
	contains(t, want[11], "webhook-id      msg_4", "#4,")

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	shown, p := new(metricsView), process.New("watch", zap.NewNop())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(shown)
	running.Go(func() {
		keepIndex(ctx, r.JS, &watchCmd{Source: source, IndexMemory: inspect.MinIndexBytes}, shown, p)
	})
	var metrics metricValues
	streamtest.Wait(t, func() bool {
		metrics = gatherValues(t, registry)
		return metrics["index_events{}"] == 4 && !strings.Contains(r.headgate(0, "find", company).err.String(), "reading the stream")
	}, "the index is built and answers")
	full, has := metrics["index_full{}"]
	if metrics["index_bytes{}"] <= 0 || metrics["index_oldest_timestamp_seconds{}"] <= 0 || !has || full != 0 {
		t.Errorf("the metrics are %v; want those of an index that has all", metrics)
	}
	for i, args := range asked {
		got := r.headgate(0, args...)
		if said := got.err.String(); strings.Contains(said, "reading") || got.out.String() != want[i] {
			t.Errorf("%v says %q and prints\n%s\nwant what it prints without an index:\n%s", args, said, got.out.String(), want[i])
		}
	}
}

// webhookID returns an id as Svix makes it at a time.
func webhookID(at time.Time) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	number := new(big.Int).Lsh(big.NewInt(at.Unix()-1_400_000_000), 128)
	number.Add(number, big.NewInt(at.UnixNano()))
	text := make([]byte, 27)
	for i := range text {
		digit := new(big.Int)
		number.DivMod(number, big.NewInt(62), digit)
		text[26-i] = digits[digit.Int64()]
	}
	return "msg_" + string(text)
}

func TestFind_TellsHowAnEventCame(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte("twenty-four bytes of key"))
	key, err := signature.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	file, other := filepath.Join(t.TempDir(), "secret"), filepath.Join(t.TempDir(), "other")
	for name, text := range map[string]string{file: secret, other: "whsec_" + base64.StdEncoding.EncodeToString([]byte("another key of 24 bytes!"))} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made := time.Now().Add(-6 * time.Minute).Truncate(time.Second)
	signed, body := made.Add(5*time.Minute+7*time.Second), []byte(`{"eventType":"company.created"}`)
	store := func(id string, made time.Time) {
		r.store(stream.Stored{
			ID: id, Timestamp: fmt.Sprint(signed.Unix()), Signature: key.Sign(id, signed, body),
			Head: codat.Head{Type: "company.created", Generated: made}, Received: time.Now(),
		}, body)
	}
	id := webhookID(made)
	store(id, made.Add(-time.Hour)) // the event is older than its message
	c := r.headgate(0, "find", id)
	contains(t, c.out.String(), "signed", signed.UTC().Format(time.RFC3339)+", 5m7s after Codat made it: about attempt 3 of 8\n")
	contains(t, c.err.String(), "log lines of the ingress", strconv.Quote(id))
	if strings.Contains(c.out.String(), "verified") {
		t.Errorf("without keys it says\n%s", &c.out)
	}
	contains(t, r.headgate(0, "find", id, "--secret-file", file).out.String(), "verified", "with key "+key.Fingerprint()+"\n")
	contains(t, r.headgate(0, "find", id, "--secret-file", other).out.String(), "verified", "not with the keys of --secret-file")
	contains(t, r.headgate(2, "find", id, "--secret-file", other+"x").err.String(), "--secret-file")
	contains(t, r.headgate(0, "find", id, "--secret-file", file, "-o", "jsonl").out.String(), `"about_attempt":3,"key":"`+key.Fingerprint()+`"`)

	old := webhookID(made.Add(-200 * 24 * time.Hour)) // of a sender that is not Svix
	store(old, made)
	contains(t, r.headgate(0, "find", old).out.String(), "5m7s after Codat made it: about attempt 3 of 8\n")

	store("another", made.Add(-60*time.Hour)) // without a time in its id, that of the body counts
	contains(t, r.headgate(0, "find", "another").out.String(), "60h5m7s after Codat made it: none of the 8 attempts, but a resend or a replay\n")
}

func TestFind_SaysWhyNothingHasTheID(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	find := func(id string) string {
		t.Helper()
		return r.headgate(1, "find", id).err.String()
	}
	contains(t, find("msg_1"), `nothing has the id "msg_1" in CODAT, which holds no event`, "claimed_id")
	r.event("company.created", "msg_1")
	contains(t, find("msg_2\x1b"), `nothing has the id "msg_2\x1b"`, "whose oldest message is of 20")

	const day = 24 * time.Hour
	for _, tt := range []struct {
		age  time.Duration
		says string
	}{
		{time.Hour, "it may be on its way: Codat tries for 28 hours"},
		{3 * day, "refused: the ingress's log has a line with claimed_id"},
		{16*day + time.Hour, "it may have expired: the stream keeps events for 384h0m0s"},
		{30 * day, "it has expired: the stream keeps events for 384h0m0s"},
	} {
		made := time.Now().Add(-tt.age)
		got := find(webhookID(made))
		contains(t, got, "Codat made it at "+made.UTC().Format("2006-01-02T15:"), tt.says)
		if asks := strings.Contains(got, fmt.Sprintf("headgate_ingress_refusals_total[1h] @ %d", made.Add(time.Hour).Unix())); asks == (tt.age == 30*day) {
			t.Errorf("of an event that is %s old it says %s", tt.age, got)
		}
	}

	if got := find("c-1"); strings.Contains(got, "erased") {
		t.Errorf("without an erasure it says %s", got)
	}
	o, err := operator.New(r.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	erasure, err := o.NewErasure(t.Context(), operator.EraseOptions{Company: "c-1", Rate: 1000})
	if err == nil {
		_, err = erasure.Run(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	contains(t, find("c-1"), "its company was erased at 20", "@")
	contains(t, find(webhookID(time.Now())), "it may have been a company's that was erased: the last time at 20")
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
