package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/claims/pgclaims/pgtest"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

// bookkeeper takes companies: what it does with one is said by the beginning of its webhook-id.
func bookkeeper(handled chan<- codat.Event[codat.Company]) workers.Worker {
	return workers.Worker{Name: "bookkeeper", Begin: stream.BeginAll(), Handlers: []workers.Handler{
		workers.Handle(codat.CompanyCreated, func(_ context.Context, e codat.Event[codat.Company]) error {
			if handled != nil {
				handled <- e
			}
			boom := errors.New("the ledger is closed")
			switch kind, _, _ := strings.Cut(e.WebhookID, "_"); kind {
			case "dead":
				return workers.Permanent(boom)
			case "park":
				return workers.RetryAfter(time.Hour, boom)
			}
			return nil
		}),
	}}
}

// work runs a worker until stop is called or the test ends.
func (r *broker) work(w workers.Worker) (stop func()) {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s := workers.Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source, Grace: 30 * time.Second}
		err := workers.Run(ctx, s, process.New(w.Name, zap.NewNop()), w, func(context.Context, workers.Parts) (workers.Worker, error) { return w, nil })
		if err != nil {
			r.Errorf("Run = %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-ended
	}
	r.Cleanup(stop)
	return stop
}

// settle is enough for one server, which has no replica that lags.
const settle = "10ms"

// audit runs headgate audit.
func (r *broker) audit(want int, args ...string) *command {
	r.Helper()
	return r.headgate(want, append([]string{"audit", "--settle", settle}, args...)...)
}

// idle waits until a worker has settled every message that its consumer takes.
func (r *broker) idle(worker string) {
	r.Helper()
	streamtest.WaitSettled(r, r.JS, source.Stream(), worker)
}

// newBrokerWithHandledEvents returns a server on which the bookkeeper has handled one event of each kind.
func newBrokerWithHandledEvents(t testing.TB) *broker {
	w := bookkeeper(nil)
	r := newBroker(t, w.Spec())
	for _, id := range []string{"done_1", "dead_1", "park_1"} {
		r.event("company.created", id)
	}
	r.quarantined("odd_1", "not JSON", []byte("?"))
	stop := r.work(w)
	r.idle(w.Name)
	stop()
	return r
}

func TestAudit_PrintsStatesAndExceptions(t *testing.T) {
	t.Parallel()
	r := newBrokerWithHandledEvents(t)
	c := r.audit(0, "--waiting")
	contains(t, c.out.String(),
		"quarantined  #4         odd_1                            not JSON",
		"parked       #3         park_1                           bookkeeper  company.created: 1 attempt, next at",
		"bookkeeper: 3 events: 1 done, 0 waiting, 1 parked, 1 dead, 0 to come, 0 exceptions",
		"3 events stored, 1 quarantined, 1 worker, 0 exceptions")

	kv, err := r.JS.KeyValue(t.Context(), source.ClaimsBucket("bookkeeper"))
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), claims.Key{WebhookID: "done_1"}.String()); err != nil {
		t.Fatal(err)
	}
	c = r.audit(1)
	contains(t, c.out.String(), "EXCEPTION    #1         done_1                           bookkeeper  company.created: skipped: ", "headgate replay --worker bookkeeper", "1 exception")
	contains(t, c.err.String(), "headgate: 1 exception")

	c = r.audit(1, "--json", "--waiting", "--worker", "bookkeeper", "--since", "1h")
	lines := c.out.lines()
	if len(lines) != 3 {
		t.Fatalf("it prints %q; want what waits, the exception, and the numbers", lines)
	}
	waits := decode[audit.Retry](t, lines[:1])[0]
	wrong := decode[audit.Exception](t, lines[1:2])[0]
	numbers := decode[audit.Report](t, lines[2:])[0]
	if waits.WebhookID != "park_1" || waits.Attempts != 1 || wrong.Kind != audit.Skipped || wrong.WebhookID != "done_1" ||
		numbers.Stored != 3 || len(numbers.Quarantined) != 1 || len(numbers.Workers) != 1 || numbers.Workers[0].Parked != 1 {
		t.Errorf("it prints %q", lines)
	}

	r.headgate(0, "replay", "--worker", "bookkeeper", "--id", "done_1")
	c = r.audit(0)
	contains(t, c.out.String(), "0 done, 0 waiting, 1 parked, 1 dead, 1 to come, 0 exceptions")
}

func TestAudit_ComparesWithExpectation(t *testing.T) {
	t.Parallel()
	r := newBrokerWithHandledEvents(t)
	file := filepath.Join(t.TempDir(), "sent")
	if err := os.WriteFile(file, []byte("done_1\ndead_1\npark_1\nodd_1\n{\"webhook_id\":\"done_1\",\"worker\":\"bookkeeper\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.audit(0, "--expect", file)
	c := begin(t, "done_1\nlost_1\n", "audit", "--expect", "-", "--settle", settle, "--nats-url", r.URL).exit(1)
	contains(t, c.out.String(), "lost_1                           -  -: not-stored", "park_1                           -  company.created: not-expected", "4 exceptions")
}

func TestAudit_ReadsClaimsInPostgreSQL(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	if err := pgclaims.Provision(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	w := bookkeeper(nil)
	w.Claims = pgclaims.New(pool, w.Name, nil)
	r := newBroker(t, w.Spec())
	r.event("company.created", "done_1")
	r.event("company.created", "done_2")
	stop := r.work(w)
	r.idle(w.Name)
	stop()
	contains(t, r.audit(1).out.String(), "no-claims", "headgate audit --postgres")
	contains(t, r.audit(0, "--postgres", "bookkeeper="+database.DSN).out.String(), "bookkeeper: 2 events: 2 done")
	if _, err := pool.Exec(t.Context(), `DELETE FROM headgate_claims WHERE key = $1`, claims.Key{WebhookID: "done_2"}.String()); err != nil {
		t.Fatal(err)
	}
	contains(t, r.audit(1, "--postgres", "bookkeeper="+database.DSN).out.String(), "done_2                           bookkeeper  company.created: skipped")
}

func TestAudit_VerifiesStoredBytes(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte("twenty-four bytes of key"))
	k, err := signature.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	long, stored := time.Unix(1_700_000_000, 0), []byte(`{"payload":{}}`)
	for id, signed := range map[string][]byte{"true_1": stored, "forged_1": []byte("something else")} {
		r.store(stream.Stored{
			ID: id, Timestamp: fmt.Sprint(long.Unix()), Signature: k.Sign(id, long, signed), Head: codat.Head{Type: "company.created"}, Received: time.Now(),
		}, stored)
	}
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.audit(0)
	c := r.audit(1, "--secret-file", file)
	contains(t, c.out.String(), "forged_1                         -  company.created: unverified", "1 exception\n")
	if strings.Contains(c.out.String(), "true_1") {
		t.Errorf("it says\n%s\nof a signature that proves", &c.out)
	}
}

// What an auditor may do. It publishes nothing but questions, and none of them changes what is stored.
const auditors = `authorization: { users: [
	{ user: admin, password: p }
	{ user: auditor, password: p, permissions: {
		publish: [
			"$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.*"
			"$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.CODAT", "$JS.API.CONSUMER.INFO.*.*"
		]
		subscribe: "_INBOX_headgate.>" } }
] }`

func TestAudit_NeedsReadPermissionsOnly(t *testing.T) {
	t.Parallel()
	address, _ := streamtest.Configured(t, auditors)
	url := func(user string) string { return strings.Replace(address, "//", "//"+user+":p@", 1) }
	nc, err := nats.Connect(url("admin"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	p, err := stream.NewPublisher(nc, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	r := &broker{&streamtest.Server{URL: url("admin"), NC: nc, JS: js}, t, p}
	w := bookkeeper(nil)
	streamtest.Provision(t, js, stream.Layout{Source: source, Workers: []stream.WorkerSpec{w.Spec()}})
	for _, id := range []string{"done_1", "dead_1", "park_1"} {
		r.event("company.created", id)
	}
	r.quarantined("odd_1", "not JSON", []byte("?"))
	stop := r.work(w)
	r.idle(w.Name)
	stop()

	written := func() string {
		var all []string
		for info := range js.ListStreams(t.Context()).Info() {
			all = append(all, fmt.Sprint(info.Config.Name, " ", info.State.Msgs, " ", info.State.LastSeq))
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	before := written()
	c := headgate(t, 0, "audit", "--waiting", "--nats-url", url("auditor"))
	contains(t, c.out.String(), "1 done, 0 waiting, 1 parked, 1 dead")
	if after := written(); after != before {
		t.Errorf("after the audit the streams hold %s; want %s as before", after, before)
	}
}

func TestAudit_RefusesWrongUsage(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, args, says string }{
		{"a bad worker", "audit --worker Book", "small letter"},
		{"a bad time", "audit --since yesterday", "3d"},
		{"a count that is not there", "audit --expect /nowhere", "--expect"},
		{"a count that is empty", "audit --expect " + empty, "--expect: it has no lines"},
		{"keys that are not there", "audit --secret-file /nowhere", "--secret-file"},
		{"a database without a worker", "audit --postgres postgres://localhost", "--postgres"},
		{"a database of a bad worker", "audit --postgres Book=postgres://localhost", "small letter"},
		{"a database that is no address", "audit --postgres book=postgres://a:b:c", "--postgres"},
		{"a replay of nothing", "replay --worker bookkeeper", "choose the events"},
		{"a replay of all and some", "replay --worker bookkeeper --all --id msg_1", "choose the events"},
		{"a replay without a worker", "replay --all", "--worker"},
		{"a replay for a bad worker", "replay --worker Book --all", "small letter"},
		{"a replay under a bad id", "replay --worker bookkeeper --all --redrive-id a:b", "--redrive-id"},
		{"a replay that never ends", "replay --worker bookkeeper --all --rate 0", "--rate"},
		{"a replay of a bad type", "replay --worker bookkeeper --type a..b", "--type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := headgate(t, 2, strings.Fields(tt.args)...)
			contains(t, c.err.String(), tt.says)
		})
	}
	for _, args := range []string{"audit", "replay --worker bookkeeper --all"} {
		c := headgate(t, 3, append(strings.Fields(args), "--nats-url", "nats://127.0.0.1:1", "--connect-timeout", "100ms")...)
		contains(t, c.err.String(), "cannot reach NATS")
	}
	r := newBroker(t)
	contains(t, r.audit(1, "--source", "other").err.String(), "run headgate provision")
	contains(t, r.audit(1, "--worker", "nobody").err.String(), `no worker "nobody" is provisioned`)
	contains(t, r.headgate(1, "replay", "--worker", "nobody", "--all").err.String(), `no worker "nobody" is provisioned`)
}
