// Package nats_test keeps the configuration of the NATS servers true: that each process can do its work as the user
// that it has there, and that no user can do more.
package nats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/connections"
)

const source = stream.Source("codat")

// run runs a real program as a role until the returned function is called. It must never lack a permission.
func run[S any](t *testing.T, in installation, n *node, role, name string, settings *S, program func(context.Context, *S, *process.Process) error, args ...string) (*process.Process, func()) {
	t.Helper()
	logged, logs := observer.New(zap.WarnLevel)
	p := process.New(name, zap.New(logged))
	args = append(args, "--nats-url", n.url(), "--nats-nkey", in.seed(role))
	if _, err := process.Parse(name, "", settings, args); err != nil {
		t.Fatalf("settings of %s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- program(ctx, settings, p) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s ended with %v", name, err)
		}
		for _, line := range logs.All() {
			if strings.Contains(line.Message, "permission") {
				t.Errorf("%s: %s %v", name, line.Message, line.ContextMap())
			}
		}
	}
	t.Cleanup(stop)
	return p, stop
}

// Every program does all that it does, as the user that it has, and the server refuses nothing.
func TestEveryProgramCanDoItsWork(t *testing.T) {
	in := install(t)
	n := start(t, in.options(t, "server.conf", "nats"))
	operator, key := in.as(n, "operator"), filepath.Join(in.secrets, "webhook", "key")

	headgate(t, in.as(n, "provision"), "provision")
	headgate(t, in.as(n, "provision"), "provision", "--max-bytes", "3GiB")
	headgate(t, in.as(n, "provision"), "provision", "--dry-run")
	headgate(t, operator, "provision", "--dry-run")

	port := freePort(t)
	door, stopDoor := run(t, in, n, "ingress", "ingress", new(ingress.Settings), ingress.Run,
		"--listen", fmt.Sprintf("127.0.0.1:%d", port), "--secret-file", key, "--drain-delay", "0s")
	wait(t, func() bool { return door.Health.Ready() == nil }, "the ingress is ready")
	worker, stopWorker := run(t, in, n, "connections", "worker-connections", new(connections.Settings), connections.Run)
	wait(t, func() bool { return strings.Contains(headgate(t, operator, "workers"), "connections") }, "the worker shows up")
	wait(t, func() bool { return worker.Health.Ready() == nil }, "the worker is ready")

	to := fmt.Sprintf("http://127.0.0.1:%d/webhooks/codat", port)
	headgate(t, nil, "send", "--all", "--to", to, "--secret-file", key)
	// An event that its worker cannot read becomes a dead letter.
	wrong := filepath.Join(t.TempDir(), "wrong.json")
	if err := os.WriteFile(wrong, []byte(`{"eventType":"connection.connected","payload":{"connection":7}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	headgate(t, nil, "send", "--file", wrong, "--to", to, "--secret-file", key)

	// All is settled. Only the watcher looks, who may do no more than that.
	watch, _ := in.connect(t, n, "watch", "watch")
	js, err := jetstream.New(watch)
	if err != nil {
		t.Fatal(err)
	}
	settled := func() bool {
		c, err := js.Consumer(within(t), source.Stream(), "connections")
		if err != nil {
			t.Fatalf("the consumer, as watch: %v", err)
		}
		i := c.CachedInfo()
		return i.NumPending == 0 && i.NumAckPending == 0
	}
	wait(t, settled, "all events are settled")
	dead, err := js.Stream(within(t), source.DeadStream())
	if err != nil {
		t.Fatalf("the dead letters, as watch: %v", err)
	}
	if dead.CachedInfo().State.Msgs == 0 {
		t.Fatal("there are no dead letters; want the event that cannot be read among them")
	}
	watches(t, in, n)

	list := headgate(t, operator, "dead", "list")
	number := strings.Fields(list)[0]
	headgate(t, operator, "dead", "show", number)
	headgate(t, operator, "dead", "replay", number)
	wait(t, settled, "the redrive is settled")
	quarantined := headgate(t, operator, "quarantine", "list")
	number = strings.Fields(quarantined)[0]
	headgate(t, operator, "quarantine", "show", number)
	headgate(t, operator, "quarantine", "release", number, "--type", "company.created")
	headgate(t, operator, "replay", "--worker", "connections", "--type", "connection.connected")
	wait(t, settled, "the replay is settled")
	headgate(t, operator, "audit", "--secret-file", key)
	tails(t, in, n)

	stopWorker()
	stopDoor()
	for _, line := range n.said.about("Violation") {
		t.Errorf("the server refused: %s", line)
	}
}

var running = regexp.MustCompile(`worker_instances\{[^}]*worker="connections"[^}]*\} 1\n`)

// watches runs the exporter until it has looked.
func watches(t *testing.T, in installation, n *node) {
	t.Helper()
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cmd := exec.CommandContext(within(t), name, "watch", "--admin-listen", address, "--interval", "1s")
	cmd.Env = append(os.Environ(), in.as(n, "watch")...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	wait(t, func() bool {
		resp, err := client.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		metrics := string(text)
		return err == nil && running.MatchString(metrics) && strings.Contains(metrics, "consumer_oldest_unsettled_seconds{")
	}, "the exporter shows the worker")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("headgate watch ended with %v\n%s", err, said.String())
	}
	if strings.Contains(said.String(), "permission") {
		t.Errorf("headgate watch says\n%s", said.String())
	}
}

// tails follows events as an operator, for as long as it takes to see one.
func tails(t *testing.T, in installation, n *node) {
	t.Helper()
	nc, refused := in.connect(t, n, "operator", "headgate")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(within(t), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	for _, durable := range []string{"", stream.TailPrefix + "laptop"} {
		c, err := st.CreateOrUpdateConsumer(within(t), jetstream.ConsumerConfig{Durable: durable, AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			t.Fatalf("make a consumer as operator: %v", err)
		}
		m, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatalf("follow as operator: %v", err)
		}
		if err := m.DoubleAck(within(t)); err != nil {
			t.Errorf("ack as operator: %v", err)
		}
		if err := st.DeleteConsumer(within(t), c.CachedInfo().Name); err != nil {
			t.Errorf("delete a consumer as operator: %v", err)
		}
	}
	select {
	case err := <-refused:
		t.Errorf("following as operator: %v", err)
	default:
	}
}

// What each user must not be able to do. Publishing to a subject of $JS.API asks JetStream for something.
func TestNobodyCanDoMore(t *testing.T) {
	in := install(t, "--team", "billing").withTeam(t)
	n := start(t, in.options(t, "server.conf", "nats"))
	headgate(t, in.as(n, "provision"), "provision")

	everyone := []forbidden{
		{"delete the events", "pub $JS.API.STREAM.DELETE.CODAT"},
		{"purge the events", "pub $JS.API.STREAM.PURGE.CODAT"},
		{"delete one event", "pub $JS.API.STREAM.MSG.DELETE.CODAT"},
		{"take a snapshot of all events", "pub $JS.API.STREAM.SNAPSHOT.CODAT"},
		{"restore a stream", "pub $JS.API.STREAM.RESTORE.CODAT"},
		{"hear everything", "sub >"},
		{"hear events beside the stream", "sub codat.events.>"},
		{"read the answers to all others", "sub _INBOX.>"},
		{"read the answers to the ingress", "sub _INBOX_ingress.>"},
		{"read the answers to the operator", "sub _INBOX_headgate.>"},
		{"read the answers to a worker", "sub _INBOX_connections.>"},
		{"answer in the place of JetStream", "sub $JS.API.>"},
		{"hear of claims", "sub $KV.>"},
		{"ask the servers themselves", "pub $SYS.REQ.SERVER.PING"},
	}
	tests := []struct {
		role, process string
		too           []forbidden
	}{
		{"ingress", "ingress", []forbidden{
			{"read an event", "pub $JS.API.DIRECT.GET.CODAT"},
			{"read an event, the older way", "pub $JS.API.STREAM.MSG.GET.CODAT"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"change the stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
			{"list the streams", "pub $JS.API.STREAM.LIST"},
			{"give an event again", "pub codat.redrive.connections.company.created"},
			{"make a dead letter", "pub codat.dead.connections.company.created"},
			{"write down an operator's deed", "pub codat.operator"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"write the state", "pub $KV.CODAT_connections.x.y"},
			{"store in another source", "pub other.events.company.created"},
		}},
		{"connections", "connections", []forbidden{
			{"store an event", "pub codat.events.company.created"},
			{"quarantine", "pub codat.quarantine"},
			{"give an event again", "pub codat.redrive.connections.company.created"},
			{"make a dead letter of another worker", "pub codat.dead.writes.company.created"},
			{"park for another worker", "pub codat.parked.writes.company.created"},
			{"read a dead letter", "pub $JS.API.DIRECT.GET.CODAT_DEAD"},
			{"read any event by its number", "pub $JS.API.DIRECT.GET.CODAT"},
			{"take another worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.writes"},
			{"ack another worker's event", "pub $JS.ACK.CODAT.writes.1.1.1.1.0"},
			{"ack another worker's event, the newer way", "pub $JS.ACK.hub.hash.CODAT.writes.1.1.1.1.0"},
			{"read another worker's claim", "pub $JS.API.DIRECT.GET.KV_CODAT_claims_writes.$KV.CODAT_claims_writes.x"},
			{"write another worker's claim", "pub $KV.CODAT_claims_writes.x"},
			{"write another worker's state", "pub $KV.CODAT_writes.x"},
			{"show up as another worker", "pub $KV.CODAT_workers.writes.x"},
			{"widen its own filters", "pub $JS.API.CONSUMER.CREATE.CODAT.connections"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"delete its own consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.connections"},
			{"delete its claims", "pub $JS.API.STREAM.PURGE.KV_CODAT_claims_connections"},
		}},
		{"provision", "headgate", []forbidden{
			{"store an event", "pub codat.events.company.created"},
			{"give an event again", "pub codat.redrive.connections.company.created"},
			{"read an event", "pub $JS.API.DIRECT.GET.CODAT"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"delete a worker's consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.connections"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
		}},
		{"operator", "headgate", []forbidden{
			{"make or change a stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"ack a worker's event", "pub $JS.ACK.CODAT.connections.1.1.1.1.0"},
			{"ack a worker's event, the newer way", "pub $JS.ACK.hub.hash.CODAT.connections.1.1.1.1.0"},
			{"delete a worker's consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.connections"},
			{"delete its parked one", "pub $JS.API.CONSUMER.DELETE.CODAT_PARKED.connections"},
			{"change a worker's consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.connections"},
			{"change it, with a filter", "pub $JS.API.CONSUMER.CREATE.CODAT.connections.codat.events.>"},
			{"change it, the oldest way", "pub $JS.API.CONSUMER.DURABLE.CREATE.CODAT.connections"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"make a dead letter", "pub codat.dead.connections.company.created"},
			{"quarantine", "pub codat.quarantine"},
		}},
		{"watch", "watch", []forbidden{
			{"store an event", "pub codat.events.company.created"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"delete a worker's consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.connections"},
			{"read a dead letter", "pub $JS.API.DIRECT.GET.CODAT_DEAD"},
			{"read the state", "pub $JS.API.DIRECT.GET.KV_CODAT_connections.x"},
			{"change a stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.role, func(t *testing.T) {
			nc, refused := in.connect(t, n, tt.role, tt.process)
			for _, f := range slices.Concat(everyone, tt.too) {
				if f.op != "sub _INBOX_"+tt.process+".>" { // its own
					f.check(t, nc, refused)
				}
			}
		})
	}
}

// forbidden is something that a user must not do: "pub <subject>" or "sub <subject>".
type forbidden struct{ name, op string }

func (f forbidden) check(t *testing.T, nc *nats.Conn, refused <-chan error) {
	t.Helper()
	verb, subject, _ := strings.Cut(f.op, " ")
	var err error
	if verb == "sub" {
		var sub *nats.Subscription
		if sub, err = nc.SubscribeSync(subject); err == nil {
			defer func() { _ = sub.Unsubscribe() }()
		}
	} else {
		err = nc.Publish(subject, []byte("{}"))
	}
	if err == nil {
		err = nc.FlushWithContext(within(t)) // the refusal comes before the answer to this
	}
	if err != nil {
		t.Fatalf("it cannot even try to %s: %v", f.name, err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), fmt.Sprintf("%q", subject)) {
			t.Errorf("it tries to %s (%s) and is told %v; want it refused", f.name, f.op, err)
		}
	case <-within(t).Done():
		t.Errorf("it can %s (%s)", f.name, f.op)
	}
}

// What one account cannot prevent: whoever may ask for messages may have the server put them anywhere in the account,
// by the subject that it asks them to be sent to. So no worker trusts a subject alone, and an auditor proves the stored
// signatures again. A team has an account of its own, where its forgeries stay.
func TestForgedReply(t *testing.T) {
	in := install(t, "--team", "billing").withTeam(t)
	n := start(t, in.options(t, "server.conf", "nats"))
	headgate(t, in.as(n, "provision"), "provision")
	teamDurable(t, in, n)
	for i := range 4 {
		store(t, in, n, fmt.Sprintf("msg_%d", i))
	}
	operator, _ := in.connect(t, n, "operator", "headgate")
	js, err := jetstream.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	count := func(name string) uint64 {
		st, err := js.Stream(within(t), name)
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo().State.Msgs
	}

	worker, _ := in.connect(t, n, "connections", "connections")
	forge := func(subject string) {
		if err := worker.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.CODAT.connections", subject, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
			t.Fatal(err)
		}
	}
	// In the stream of the events the copy is one too many: its id is known there.
	forge("codat.events.company.deleted")
	forge("codat.dead.writes.forged")
	wait(t, func() bool { return count(source.DeadStream()) == 1 }, "a worker has forged a dead letter of another: if it cannot any more, NATS has closed the hole, and README.md need not speak of it")
	if n := count(source.Stream()); n != 4 {
		t.Errorf("%d messages are in the stream of the events; want the 4 that the ingress stored", n)
	}

	before := count(source.Stream()) + count(source.DeadStream())
	team, refused := in.connect(t, n, "billing", "billing")
	for _, subject := range []string{"codat.dead.writes.forged", "codat.events.company.created", "$KV.CODAT_claims_connections.x"} {
		own, err := team.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := team.PublishRequest("HEADGATE.API.CONSUMER.MSG.NEXT.CODAT.billing", subject, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
			t.Fatal(err)
		}
		// The request is carried out, in the team's own account.
		if m, err := own.NextMsgWithContext(within(t)); err != nil || m.Header.Get(jetstream.MsgIDHeader) == "" {
			t.Fatalf("the team is sent %v, %v; want an event", m, err)
		}
	}
	if after := count(source.Stream()) + count(source.DeadStream()); after != before {
		t.Errorf("%d messages stored after the team's requests; want %d as before", after, before)
	}
	claims, err := js.Stream(within(t), "KV_"+source.ClaimsBucket("connections"))
	if err != nil {
		t.Fatal(err)
	}
	if n := claims.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d claims; want none", n)
	}
	select {
	case err := <-refused:
		t.Errorf("the team was told %v: then this test shows nothing", err)
	default:
	}
}

// store stores an event as the ingress.
func store(t *testing.T, in installation, n *node, id string) {
	t.Helper()
	nc, _ := in.connect(t, n, "ingress", "ingress")
	defer nc.Close()
	p, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	body, head := connected(t)
	m, err := source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(within(t), m); err != nil {
		t.Fatal(err)
	}
}

// teamDurable makes the durable of the team billing, as who provisions.
func teamDurable(t *testing.T, in installation, n *node) {
	t.Helper()
	nc, _ := in.connect(t, n, "provision", "headgate")
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateConsumer(within(t), source.Stream(), jetstream.ConsumerConfig{
		Durable: "billing", FilterSubject: "codat.events.connection.*", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
	})
	if err != nil {
		t.Fatalf("make the team's durable: %v", err)
	}
}

func teamJetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.NewWithAPIPrefix(nc, "HEADGATE.API")
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestATeamReadsItsDurableAndTheState(t *testing.T) {
	in := install(t, "--team", "billing").withTeam(t)
	n := start(t, in.options(t, "server.conf", "nats"))
	headgate(t, in.as(n, "provision"), "provision")
	teamDurable(t, in, n)
	store(t, in, n, "msg_1")
	store(t, in, n, "msg_2")
	worker, _ := run(t, in, n, "connections", "worker-connections", new(connections.Settings), connections.Run)
	wait(t, func() bool { return worker.Health.Ready() == nil }, "the worker is ready")

	nc, refused := in.connect(t, n, "billing", "billing")
	js := teamJetStream(t, nc)
	c, err := js.Consumer(within(t), source.Stream(), "billing")
	if err != nil {
		t.Fatalf("Consumer() = %v", err)
	}
	for i := range 2 {
		m, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatalf("Next() = %v", err)
		}
		if want := fmt.Sprintf("msg_%d", i+1); m.Headers().Get(jetstream.MsgIDHeader) != want {
			t.Errorf("it gets %s; want %s", m.Headers().Get(jetstream.MsgIDHeader), want)
		}
		if err := m.DoubleAck(within(t)); err != nil {
			t.Errorf("DoubleAck() = %v", err)
		}
	}
	if i, err := c.Info(within(t)); err != nil || i.NumAckPending != 0 || i.NumPending != 0 {
		t.Errorf("Info() = %+v, %v; want nothing left", i, err)
	}

	states, err := connections.Open(within(t), js, source)
	if err != nil {
		t.Fatalf("open the state: %v", err)
	}
	_, head := connected(t)
	wait(t, func() bool {
		state, err := states.Get(within(t), head.Company, head.Connection)
		if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Fatalf("read the state: %v", err)
		}
		return err == nil && state.Connection == head.Connection
	}, "the team reads the state of the connection")

	for _, f := range []struct{ name, subject string }{
		{"take a worker's events", "HEADGATE.API.CONSUMER.MSG.NEXT.CODAT.connections"},
		{"make a consumer", "HEADGATE.API.CONSUMER.CREATE.CODAT.mine"},
		{"make one, in its own account", "$JS.API.CONSUMER.CREATE.CODAT.mine"},
		{"read an event by its number", "HEADGATE.API.DIRECT.GET.CODAT"},
		{"read a claim", "$JS.API.DIRECT.GET.KV_CODAT_claims_connections.x"},
		{"ack for a worker", "$JS.ACK.CODAT.connections.1.1.1.1.0"},
		{"store an event", "codat.events.company.created"},
		{"write the state", "$KV.CODAT_connections.x.y"},
		{"delete the stream", "$JS.API.STREAM.DELETE.CODAT"},
	} {
		if m, err := nc.RequestWithContext(within(t), f.subject, []byte("{}")); !errors.Is(err, nats.ErrNoResponders) && !notEnabled(m) {
			t.Errorf("it can %s: %v, %v; want that nobody answers", f.name, m, err)
		}
	}
	select {
	case err := <-refused:
		t.Errorf("the team's own account refuses %v", err)
	default:
	}
}

// notEnabled reports whether an answer is that the account has no JetStream: it is not Headgate's that answers.
func notEnabled(m *nats.Msg) bool {
	return m != nil && strings.Contains(string(m.Data), "JetStream not enabled for account")
}

// connected is an event about a connection, and what it says of itself.
func connected(t *testing.T) ([]byte, codat.Head) {
	t.Helper()
	example, ok := examples.Of("connection.connected")
	if !ok {
		t.Fatal("there is no example of connection.connected")
	}
	head, err := codat.Read(example.Body)
	if err != nil {
		t.Fatal(err)
	}
	return example.Body, head
}

// A team cannot import the durable of another, or of a worker: the server does not start with such a file.
func TestATeamCannotImportAnothersDurable(t *testing.T) {
	for _, other := range []string{"connections", "payroll"} {
		t.Run(other, func(t *testing.T) {
			in := install(t, "--team", "billing").withTeam(t)
			file := filepath.Join(in.config, "team-billing.conf")
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			greedy := strings.ReplaceAll(string(text), "CODAT.billing", "CODAT."+other)
			if err := os.WriteFile(file, []byte(greedy), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := in.parse(t, "server.conf", "nats"); err == nil || !strings.Contains(err.Error(), "service import not authorized") {
				t.Errorf("a server with a team that takes the durable of %s: %v; want it refused", other, err)
			}
		})
	}
}

// Each built-in worker has its file, which is that of connections with another name but for the state.
func TestEachWorkerHasItsUser(t *testing.T) {
	mains, err := filepath.Glob("../../cmd/worker-*")
	if err != nil || len(mains) == 0 {
		t.Fatalf("no workers in cmd: %v", err)
	}
	model, _, _ := strings.Cut(text(t, "worker-connections.conf"), "# Its state.")
	_, model, _ = strings.Cut(model, "\n\n")
	for _, main := range mains {
		file := filepath.Base(main) + ".conf"
		name := strings.TrimPrefix(filepath.Base(main), "worker-")
		variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		want := strings.ReplaceAll(strings.ReplaceAll(model, "connections", name), "CONNECTIONS", variable)
		if !strings.Contains(text(t, file), strings.TrimSpace(want)) {
			t.Errorf("%s differs from worker-connections.conf in more than its name and state", file)
		}
		for _, line := range []string{"include " + file, fmt.Sprintf("{ nkey: $%s_NKEY, permissions: $%s_MAY }", variable, variable)} {
			if !strings.Contains(text(t, "accounts.conf"), line) {
				t.Errorf("accounts.conf has no line %q", line)
			}
		}
		for _, subject := range []string{
			"$JS.API.CONSUMER.CREATE.*.%s", "$JS.API.CONSUMER.CREATE.*.%s.>", "$JS.API.CONSUMER.DELETE.*.%s",
			"$JS.API.CONSUMER.MSG.NEXT.*.%s", "$JS.ACK.*.%s.>", "$JS.ACK.*.*.*.%s.>",
		} {
			if line := fmt.Sprintf("%q", fmt.Sprintf(subject, name)); !strings.Contains(text(t, "permissions.conf"), line) {
				t.Errorf("permissions.conf does not deny %s to the operator", line)
			}
		}
	}
}

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
