// Package nats_test keeps the configuration of the NATS servers true: that each process can do its work as the user
// that it has there, and that no user can do more.
package nats_test

import (
	"context"
	"encoding/json"
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
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/connections"
	"github.com/headgate/headgate/workers/reads"
	"github.com/headgate/headgate/workers/writes"
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
func TestPrograms_CanDoTheirWork(t *testing.T) {
	t.Parallel()
	programsWork(t, 1)
}

// programsWork runs every program. With three servers, each is connected to another one.
func programsWork(t *testing.T, count int) {
	in, nodes := servers(t, count)
	everyProgram(t, in, nodes)
	saved := filepath.Join(t.TempDir(), "saved")
	headgate(t, in.as(nodes[0], "provision"), "backup", saved)
	other, empty := servers(t, count)
	headgate(t, other.as(empty[0], "provision"), "restore", saved)
	removes(t, in, nodes)
	for _, n := range slices.Concat(nodes, empty) {
		for _, line := range n.said.about("Violation") {
			t.Errorf("the server refused: %s", line)
		}
	}
}

func everyProgram(t *testing.T, in installation, nodes []*node) {
	first, second, third := nodes[0], nodes[len(nodes)/2], nodes[len(nodes)-1]
	provision, operator := in.as(first, "provision"), in.as(third, "operator")
	key := filepath.Join(in.secrets, "webhook", "key")
	copies := fmt.Sprint(len(nodes))

	headgate(t, provision, "provision", "--replicas", copies)
	headgate(t, provision, "provision", "--replicas", copies, "--max-bytes", "3GiB")
	headgate(t, provision, "provision", "--dry-run")
	headgate(t, operator, "provision", "--dry-run")

	port := freePort(t)
	door, stopDoor := run(t, in, first, "ingress", "ingress", new(ingress.Settings), ingress.Run,
		"--listen", fmt.Sprintf("127.0.0.1:%d", port), "--secret-file", key, "--drain-delay", "0s")
	wait(t, func() bool { return door.Health.Ready() == nil }, "the ingress is ready")
	standIn, codatArgs := startCodat(t)
	example, _ := examples.Of("connection.connected")
	linked, err := codat.Read(example.Body)
	if err != nil {
		t.Fatal(err)
	}
	standIn.AddCompany(codattest.Company{ID: linked.Company, Connections: []string{linked.Connection}})
	worker, stopWorker := run(t, in, second, "connections", "worker-connections", new(connections.Settings), connections.Run,
		append(codatArgs, "--reconcile", "1m")...)
	wait(t, func() bool { return strings.Contains(headgate(t, operator, "workers"), "connections") }, "the worker shows up")
	wait(t, func() bool { return worker.Health.Ready() == nil }, "the worker is ready")
	tail, tailSays := begin(t, operator, "tail", "--durable", filepath.Join(t.TempDir(), "place"))
	wait(t, func() bool { return strings.Contains(tailSays.String(), "following") }, "the tail has begun")

	to := fmt.Sprintf("http://127.0.0.1:%d/webhooks/codat", port)
	headgate(t, nil, "send", "--all", "--to", to, "--secret-file", key)
	// An event that its worker cannot read becomes a dead letter.
	wrong := filepath.Join(t.TempDir(), "wrong.json")
	if err := os.WriteFile(wrong, []byte(`{"eventType":"connection.connected","payload":{"connection":7}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	headgate(t, nil, "send", "--file", wrong, "--to", to, "--secret-file", key)
	wait(t, func() bool { return strings.Contains(tailSays.String(), "connection.connected") }, "the tail shows the event")
	interrupt(t, tail, tailSays)

	// All is settled, as far as watch can see.
	watch, _ := in.connect(t, third, "watch", "watch")
	js, err := jetstream.New(watch)
	if err != nil {
		t.Fatal(err)
	}
	reader, _ := in.connect(t, third, "operator", "headgate")
	asOperator, err := jetstream.New(reader)
	if err != nil {
		t.Fatal(err)
	}
	var last error // a request that meets a reload or an election is lost; a refusal is in what the servers say
	t.Cleanup(func() {
		if t.Failed() && last != nil {
			t.Logf("the consumer, as watch and operator: %v", last)
		}
	})
	settled := func() bool {
		if _, last = js.Consumer(within(t), source.Stream(), "connections"); last != nil {
			return false
		}
		var pending uint64
		var unacknowledged int
		pending, unacknowledged, last = streamtest.Left(within(t), asOperator, source.Stream(), "connections")
		return last == nil && pending == 0 && unacknowledged == 0
	}
	wait(t, settled, "all events are settled")
	dead, err := js.Stream(within(t), source.DeadStream())
	if err != nil {
		t.Fatalf("the dead letters, as watch: %v", err)
	}
	if dead.CachedInfo().State.Msgs == 0 {
		t.Fatal("there are no dead letters; want the event that cannot be read among them")
	}
	storesNothingOfTheServer(t, in, third)
	watches(t, in, third)

	_, list, _ := strings.Cut(headgate(t, operator, "dead", "list"), "reading the archive\n") // no headgate watch runs
	number := strings.Fields(list)[0]
	headgate(t, operator, "dead", "show", number)
	headgate(t, operator, "find", strings.Fields(list)[5])
	headgate(t, operator, "send", "--from-event", "1", "--to", to, "--secret-file", key)
	headgate(t, operator, "dead", "replay", number)
	wait(t, settled, "the redrive is settled")
	quarantined := headgate(t, operator, "quarantine", "list")
	number = strings.Fields(quarantined)[0]
	headgate(t, operator, "quarantine", "show", number)
	headgate(t, operator, "quarantine", "release", number, "--type", "company.created")
	headgate(t, operator, "replay", "--worker", "connections", "--type", "connection.connected")
	wait(t, settled, "the replay is settled")
	serves(t, in, third)
	wait(t, settled, "what the console gave is settled")
	headgate(t, operator, "pause", "connections", "--until", "1h")
	headgate(t, operator, "resume", "connections")
	headgate(t, operator, "connections", "--company", linked.Company)
	wait(t, func() bool {
		return !strings.Contains(headgate(t, operator, "connections", "show", linked.Company, linked.Connection), "reconciled      -")
	}, "the connection is reconciled")
	stopReads := recordsReads(t, in, second, operator, key, to)
	stopWrites := carriesOutPlan(t, in, second, operator, to)
	headgate(t, operator, "audit", "--secret-file", key)
	examines(t, operator)

	// The accounts are made anew at each reload.
	for _, n := range nodes {
		n.reload(t)
	}
	headgate(t, nil, "send", "connection.connected", "--to", to, "--secret-file", key)
	wait(t, settled, "an event after a reload is settled")
	headgate(t, operator, "audit", "--secret-file", key)
	others, othersSay := begin(t, nil, "send", "connection.connected", "--company", "other-1", "--count", "40", "--rate", "40", "--to", to, "--secret-file", key)
	erases(t, in, first, linked.Company)
	if err := others.Wait(); err != nil {
		t.Errorf("send while a company is erased: %v\n%s", err, othersSay)
	}
	wait(t, settled, "the events of another company, which came meanwhile, are settled")
	if text := headgate(t, in.as(first, "admin"), "erase", "other-1", "--dry-run"); !strings.Contains(text, "40 CODAT,") || !strings.Contains(text, "1 CODAT_connections") {
		t.Errorf("of another company there is\n%s\nwant all 40 events that came while one was erased, and the state", text)
	}
	stopWrites()
	stopReads()
	stopWorker()
	stopDoor()
	headgate(t, operator, "audit", "--secret-file", key)
}

// erases erases a company, of which there is some of nearly everything, as admin.
func erases(t *testing.T, in installation, n *node, company string) {
	t.Helper()
	if text := headgate(t, in.as(n, "admin"), "erase", company, "--dry-run"); !strings.Contains(text, "CODAT_reads") || !strings.Contains(text, "CODAT_plans") {
		t.Errorf("headgate erase --dry-run prints\n%s\nwant what is in the streams and the buckets", text)
	}
	wait(t, func() bool { // a worker may still write about what it handles
		text := headgate(t, in.as(n, "admin"), "erase", company, "--yes")
		return strings.Contains(text, "nothing is stored of this company")
	}, "nothing is left of the company")
}

// removes removes a worker, whose process has ended, and the source, as admin; and with three servers it has another one lead.
func removes(t *testing.T, in installation, nodes []*node) {
	t.Helper()
	admin := in.as(nodes[0], "admin")
	headgate(t, in.as(nodes[0], "operator"), "streams", "--all")
	text, err := tryHeadgate(t, admin, "step-down")
	if moved := err == nil && strings.Contains(text, "leads CODAT"); moved != (len(nodes) > 1) || !moved && !strings.Contains(text, "one copy") {
		t.Errorf("headgate step-down = %v, and prints\n%s\nwant another leader where there is another server", err, text)
	}
	headgate(t, admin, "plans", "stop", "--yes")
	headgate(t, admin, "remove", "worker", "reads", "--yes", "--allow-loss", "--dead-letters")
	if text := headgate(t, admin, "remove", "source", "codat", "--yes=codat", "--allow-loss"); !strings.Contains(text, "removed") {
		t.Errorf("headgate remove source prints\n%s", text)
	}
}

// Another role may not delete, and is told which one may.
func TestAdmin_IsNamedToOtherRoles(t *testing.T) {
	t.Parallel()
	in, nodes := servers(t, 1)
	headgate(t, in.as(nodes[0], "provision"), "provision")
	for _, role := range []string{"ingress", "operator", "provision", "watch", "support", "connections"} {
		text, err := tryHeadgate(t, in.as(nodes[0], role), "erase", "c-1", "--yes")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 4 || !strings.Contains(text, "use the key of the role admin") {
			t.Errorf("headgate erase as %s = %v, and prints\n%s\nwant exit code 4, and the role that it needs", role, err, text)
		}
	}
}

// startCodat starts a stand-in for Codat, and returns the settings with which a program calls it.
func startCodat(t *testing.T) (*codattest.Server, []string) {
	t.Helper()
	standIn, err := codattest.Start(codattest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standIn.Close)
	file := filepath.Join(t.TempDir(), "codat-key")
	if err := os.WriteFile(file, []byte(codattest.DefaultKey), 0o600); err != nil {
		t.Fatal(err)
	}
	return standIn, []string{"--codat-key-file", file, "--codat-url", standIn.URL()}
}

// carriesOutPlan submits the example of a write plan as the operator, and returns when the worker writes has carried it out at
// a stand-in for Codat, whose webhooks the ingress at to takes.
func carriesOutPlan(t *testing.T, in installation, n *node, operator []string, to string) (stop func()) {
	t.Helper()
	key, err := signature.ParseKey(strings.TrimSpace(readFile(t, filepath.Join(in.secrets, "webhook", "key"))))
	if err != nil {
		t.Fatal(err)
	}
	text := readFile(t, "../../docs/plan.json")
	p, err := plan.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	codat, codatArgs := startCodat(t)
	codat.AddCompany(codattest.Company{ID: p.Company, Connections: []string{p.Connection}})
	codat.AddEndpoint(codattest.Endpoint{URL: to, Key: key})
	worker, stop := run(t, in, n, "writes", "worker-writes", new(writes.Settings), writes.Run, codatArgs...)
	wait(t, func() bool { return worker.Health.Ready() == nil }, "the worker writes is ready")
	wait(t, func() bool { // its subscription is known to the other servers some time later
		out, err := tryHeadgate(t, operator, "plans", "submit", "../../docs/plan.json")
		return err == nil && strings.Contains(out, p.ID)
	}, "the plan is submitted")
	wait(t, func() bool { return strings.Contains(headgate(t, operator, "plans", "list", "--status", "done"), p.ID) }, "the plan is carried out")
	headgate(t, operator, "plans", "show", p.ID)
	list := headgate(t, operator, "writes", "--company", p.Company)
	headgate(t, operator, "writes", "show", strings.Fields(list)[0])
	if out, err := tryHeadgate(t, operator, "plans", "cancel", p.ID); err == nil || !strings.Contains(out, "the plan is done") {
		t.Errorf("headgate plans cancel = %v, and prints\n%s\nwant the worker's refusal", err, out)
	}
	return stop
}

// recordsReads returns when the operator sees the record that the worker reads has made of an event.
func recordsReads(t *testing.T, in installation, n *node, operator []string, key, to string) (stop func()) {
	t.Helper()
	_, stop = run(t, in, n, "reads", "worker-reads", new(reads.Settings), reads.Run)
	headgate(t, nil, "send", "read.completed.initial", "--to", to, "--secret-file", key)
	wait(t, func() bool {
		return strings.Contains(headgate(t, operator, "reads", "list", "--data-type", "invoices"), "first after link")
	}, "the operator sees the read")
	body, _ := examples.Of("read.completed.initial")
	head, err := codat.Read(body.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text := headgate(t, operator, "reads", "show", head.Company, head.Connection, "invoices"); !strings.Contains(text, "read.completed.initial") {
		t.Errorf("headgate reads show prints\n%s\nwant the event", text)
	}
	return stop
}

// storesNothingOfTheServer reports headers that a server adds to what crosses accounts and that are stored.
func storesNothingOfTheServer(t *testing.T, in installation, n *node) {
	t.Helper()
	nc, _ := in.connect(t, n, "operator", "headgate")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{source.Stream(), source.DeadStream(), "KV_" + source.ClaimsBucket("connections")} {
		_, err := stream.Read(within(t), js, name, stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
			if m.Header.Get("Nats-Request-Info") != "" {
				t.Errorf("message %d of %s has stored what the server says of its sender", m.Sequence, name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

var running = regexp.MustCompile(`worker_instances\{[^}]*worker="connections"[^}]*\} 1\n`)

var lookedAt = regexp.MustCompile(`watchdog_up\{[^}]*\} 1\n`)

// watches runs the exporter until it has looked.
func watches(t *testing.T, in installation, n *node) {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cmd, says := begin(t, in.as(n, "watch"), "watch", "--admin-listen", address, "--interval", "1s", "--stale-reads-after", "24h")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	wait(t, func() bool {
		resp, err := client.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		metrics := string(text)
		return err == nil && running.MatchString(metrics) && strings.Contains(metrics, "consumer_oldest_unsettled_seconds{") && lookedAt.MatchString(metrics)
	}, "the exporter shows the worker, and its watchdog has looked at everything")
	interrupt(t, cmd, says)
}

// examines runs headgate doctor until an operator has read all that it needs: on a slow machine an answer can come too late.
func examines(t *testing.T, operator []string) {
	t.Helper()
	var last string
	defer func() {
		if t.Failed() {
			t.Log(last)
		}
	}()
	wait(t, func() bool {
		var report struct {
			Results []struct{ Code, Status string }
		}
		last, _ = tryHeadgate(t, operator, "doctor", "-o", "json")
		if err := json.NewDecoder(strings.NewReader(last)).Decode(&report); err != nil {
			return false
		}
		for _, r := range report.Results {
			part, _, _ := strings.Cut(strings.TrimPrefix(r.Code, "HG-"), "-")
			reads := slices.Contains([]string{"NATS", "STR", "CON", "WRK", "EVT"}, part) && r.Code != "HG-WRK-008" || // which reads metrics
				slices.Contains([]string{"HG-CLK-001", "HG-COD-005"}, r.Code)
			if reads && r.Status == "skipped" || r.Status == "fail" || r.Code == "HG-NATS-006" && r.Status != "ok" {
				return false
			}
		}
		return true
	}, "the operator may read all, and nothing fails")
}

// The user of another role learns what it may not do.
func TestDoctor_NamesWhatAnotherRoleMayNotDo(t *testing.T) {
	t.Parallel()
	in, nodes := servers(t, 1)
	headgate(t, in.as(nodes[0], "provision"), "provision")
	for role, more := range map[string]string{"watch": "", "ingress": "this user may not publish to $JS.API."} {
		text, _ := tryHeadgate(t, in.as(nodes[0], role), "doctor", "--only", "HG-NATS-*") // it may exit 1
		for _, want := range []string{"HG-NATS-001\tconnection to NATS\tconnected", "this user may not subscribe to its inbox, _INBOX_headgate.>", more} {
			if !strings.Contains(text, want) {
				t.Errorf("as %s it says\n%s\nwant %q in it", role, text, want)
			}
		}
	}
}

// interrupt ends a command as a person does, and fails when it did not exit 0 or lacked a permission.
func interrupt(t *testing.T, cmd *exec.Cmd, says *output) {
	t.Helper()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v ended with %v\n%s", cmd.Args, err, says)
	}
	if strings.Contains(says.String(), "permission") {
		t.Errorf("%v says\n%s", cmd.Args, says)
	}
}

// What each user must not be able to do. Publishing to a subject of $JS.API asks JetStream for something.
func TestUsers_AreRefusedTheRest(t *testing.T) {
	t.Parallel()
	in, nodes := servers(t, 1)
	n := nodes[0]
	headgate(t, in.as(n, "provision"), "provision")

	removal := []forbidden{ // which admin may
		{"delete the events", "pub $JS.API.STREAM.DELETE.CODAT"},
		{"purge the events", "pub $JS.API.STREAM.PURGE.CODAT"},
		{"delete one event", "pub $JS.API.STREAM.MSG.DELETE.CODAT"},
		{"move the events to another leader", "pub $JS.API.STREAM.LEADER.STEPDOWN.CODAT"},
		{"delete a worker's consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.connections"},
	}
	everyone := []forbidden{
		{"hear everything", "sub >"},
		{"hear events beside the stream", "sub codat.events.>"},
		{"read the answers to all others", "sub _INBOX.>"},
		{"read the answers to the ingress", "sub _INBOX_ingress.>"},
		{"read the answers to the operator", "sub _INBOX_headgate.>"},
		{"read the answers to a worker", "sub _INBOX_connections.>"},
		{"read the answers to the console", "sub _INBOX_console.>"},
		{"answer in the place of JetStream", "sub $JS.API.>"},
		{"hear of claims", "sub $KV.>"},
		{"hear write plans in the place of the worker", "sub codat.plans.submit"},
		{"hear searches in the place of watch", "sub codat.find"},
		{"ask the servers themselves", "pub $SYS.REQ.SERVER.PING"},
	}
	backup := []forbidden{ // which provision makes
		{"take a snapshot of all events", "pub $JS.API.STREAM.SNAPSHOT.CODAT"},
		{"restore a stream", "pub $JS.API.STREAM.RESTORE.CODAT"},
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
			{"write an operator's record", "pub codat.operator"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"write the state", "pub $KV.CODAT_connections.x.y"},
			{"write what is expected", "pub $KV.CODAT_expected.x"},
			{"store in another source", "pub other.events.company.created"},
			{"ask which events are stored", "pub codat.find"},
			{"submit a write plan", "pub codat.plans.submit"},
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
			{"write what is expected", "pub $KV.CODAT_expected.x"},
			{"show up as another worker", "pub $KV.CODAT_workers.writes.x"},
			{"widen its own filters", "pub $JS.API.CONSUMER.CREATE.CODAT.connections"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"delete its own consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.connections"},
			{"delete its claims", "pub $JS.API.STREAM.PURGE.KV_CODAT_claims_connections"},
			{"submit a write plan", "pub codat.plans.submit"},
		}},
		{"provision", "provision", []forbidden{
			{"store an event", "pub codat.events.company.created"},
			{"give an event again", "pub codat.redrive.connections.company.created"},
			{"read an event", "pub $JS.API.DIRECT.GET.CODAT"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"submit a write plan", "pub codat.plans.submit"},
		}},
		{"admin", "admin", []forbidden{
			{"store an event", "pub codat.events.company.created"},
			{"quarantine", "pub codat.quarantine"},
			{"give an event again", "pub codat.redrive.connections.company.created"},
			{"make a dead letter", "pub codat.dead.connections.company.created"},
			{"park an event", "pub codat.parked.connections.company.created"},
			{"make a stream", "pub $JS.API.STREAM.CREATE.MINE"},
			{"change a stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"make a consumer, the oldest way", "pub $JS.API.CONSUMER.DURABLE.CREATE.CODAT.mine"},
			{"pause a worker", "pub $JS.API.CONSUMER.PAUSE.CODAT.connections"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"ack a worker's event", "pub $JS.ACK.CODAT.connections.1.1.1.1.0"},
			{"remove a server from a stream", "pub $JS.API.STREAM.PEER.REMOVE.CODAT"},
			{"remove a server", "pub $JS.API.SERVER.REMOVE"},
			{"move the leader of the cluster", "pub $JS.API.META.LEADER.STEPDOWN"},
			{"submit a write plan", "pub codat.plans.submit"},
			{"ask which events are stored", "pub codat.find"},
		}},
		{"writes", "writes", []forbidden{
			{"submit a write plan", "pub codat.plans.submit"},
			{"answer what nobody has asked", "pub _R_.x"},
			{"store an event", "pub codat.events.company.created"},
			{"write another worker's state", "pub $KV.CODAT_connections.x.y"},
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
			{"write what is expected", "pub $KV.CODAT_expected.x"},
			{"make a dead letter", "pub codat.dead.connections.company.created"},
			{"quarantine", "pub codat.quarantine"},
		}},
		{"console", "console", []forbidden{
			{"store an event", "pub codat.events.company.created"},
			{"quarantine", "pub codat.quarantine"},
			{"give an event again", "pub codat.redrive.connections.company.created"},
			{"write an operator's record", "pub codat.operator"},
			{"pause a worker", "pub $JS.API.CONSUMER.PAUSE.CODAT.connections"},
			{"submit a write plan", "pub codat.plans.submit"},
			{"cancel a write plan", "pub codat.plans.cancel"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"ack a worker's event", "pub $JS.ACK.CODAT.connections.1.1.1.1.0"},
			{"change a stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"write the state", "pub $KV.CODAT_connections.x.y"},
			{"write what is expected", "pub $KV.CODAT_expected.x"},
			{"make a dead letter", "pub codat.dead.connections.company.created"},
		}},
		{"console-operator", "console", []forbidden{
			{"quarantine", "pub codat.quarantine"},
			{"pause a consumer of a bucket", "pub $JS.API.CONSUMER.PAUSE.KV_CODAT_claims_connections.x"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"change a worker's consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.connections"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"ack a worker's event", "pub $JS.ACK.CODAT.connections.1.1.1.1.0"},
			{"change a stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"write the state", "pub $KV.CODAT_connections.x.y"},
			{"write what is expected", "pub $KV.CODAT_expected.x"},
			{"make a dead letter", "pub codat.dead.connections.company.created"},
		}},
		{"watch", "watch", []forbidden{
			{"store an event", "pub codat.events.company.created"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"delete a worker's consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.connections"},
			{"make a dead letter", "pub codat.dead.connections.company.created"},
			{"read a parked event", "pub $JS.API.DIRECT.GET.CODAT_PARKED"},
			{"read claims", "pub $JS.API.DIRECT.GET.KV_CODAT_claims_connections"},
			{"read write plans, with what they push", "pub $JS.API.DIRECT.GET.KV_CODAT_plans"},
			{"answer what nobody has asked", "pub _R_.x"},
			{"ask for events in the place of the operator", "pub codat.find"},
			{"write the state", "pub $KV.CODAT_writes.x"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"write another bucket whose name begins alike", "pub $KV.CODAT_expected_too.x"},
			{"delete its own bucket", "pub $JS.API.STREAM.DELETE.KV_CODAT_expected"},
			{"change a stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
			{"submit a write plan", "pub codat.plans.submit"},
		}},
		{"support", "support", []forbidden{
			{"read an event", "pub $JS.API.DIRECT.GET.CODAT"},
			{"read an event by its subject", "pub $JS.API.DIRECT.GET.CODAT.codat.events.company.created"},
			{"read an event, the older way", "pub $JS.API.STREAM.MSG.GET.CODAT"},
			{"read a dead letter", "pub $JS.API.DIRECT.GET.CODAT_DEAD"},
			{"read a parked event", "pub $JS.API.DIRECT.GET.CODAT_PARKED"},
			{"read the state", "pub $JS.API.DIRECT.GET.KV_CODAT_connections.$KV.CODAT_connections.x.y"},
			{"make a consumer", "pub $JS.API.CONSUMER.CREATE.CODAT.mine"},
			{"give its consumer bodies", "pub $JS.API.CONSUMER.CREATE.CODAT.support"},
			{"give it bodies, with a filter", "pub $JS.API.CONSUMER.CREATE.CODAT.support.codat.events.>"},
			{"give it bodies, the oldest way", "pub $JS.API.CONSUMER.DURABLE.CREATE.CODAT.support"},
			{"delete its consumer", "pub $JS.API.CONSUMER.DELETE.CODAT.support"},
			{"take a worker's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.connections"},
			{"take a team's events", "pub $JS.API.CONSUMER.MSG.NEXT.CODAT.billing"},
			{"set the place of a worker", "pub $JS.API.CONSUMER.RESET.CODAT.connections"},
			{"ack a worker's event", "pub $JS.ACK.CODAT.connections.1.1.1.1.0"},
			{"store an event", "pub codat.events.company.created"},
			{"give an event again", "pub codat.redrive.connections.company.created"},
			{"write an operator's record", "pub codat.operator"},
			{"write a claim", "pub $KV.CODAT_claims_connections.x"},
			{"change a stream", "pub $JS.API.STREAM.UPDATE.CODAT"},
			{"submit a write plan", "pub codat.plans.submit"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.role, func(t *testing.T) {
			nc, refused := in.connect(t, n, tt.role, tt.process)
			all := slices.Concat(everyone, tt.too)
			if tt.role != "provision" {
				all = append(all, backup...)
			}
			if tt.role != "admin" {
				all = append(all, removal...)
			}
			for _, f := range all {
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

// store stores an event as the ingress.
func store(t *testing.T, in installation, n *node, id string) {
	t.Helper()
	body, head := connected(t)
	storeAs(t, in, n, stream.Stored{ID: id, Head: head, Received: time.Now()}, body)
}

// teamDurable makes the durable of the team billing.
func teamDurable(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	_, err := js.CreateConsumer(within(t), source.Stream(), jetstream.ConsumerConfig{
		Durable: "billing", FilterSubject: "codat.events.connection.*", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
	})
	if err != nil {
		t.Fatalf("make the team's durable: %v", err)
	}
}

// asProvision makes the team's durable as the user provision does.
func asProvision(t *testing.T, in installation, n *node) {
	t.Helper()
	nc, _ := in.connect(t, n, "provision", "provision")
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	teamDurable(t, js)
}

func teamJetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.NewWithAPIPrefix(nc, "HEADGATE.API")
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// planActions are the requests about write plans.
var planActions = []string{"submit", "resume", "retry", "skip", "cancel"}

// answersPlans answers every request about write plans as the worker writes, with the request's subject, and tells what it
// has heard.
func answersPlans(t *testing.T, in installation, n *node, heard func(subject string)) {
	t.Helper()
	nc, refused := in.connect(t, n, "writes", "writes")
	_, err := nc.QueueSubscribe(source.PlansSubject("*"), "writes", func(m *nats.Msg) {
		heard(m.Subject)
		_ = m.Respond([]byte(fmt.Sprintf(`{"subject":%q}`, m.Subject)))
	})
	if err == nil {
		err = nc.FlushWithContext(within(t))
	}
	if err != nil {
		t.Fatalf("subscribe as the worker: %v", err)
	}
	t.Cleanup(func() {
		for len(refused) > 0 {
			t.Errorf("the worker answers and is told %v; want each answer delivered", <-refused)
		}
	})
}

func TestPlans_AreSubmittedByTeamsAndActedOnByTheOperator(t *testing.T) {
	t.Parallel()
	asksAboutPlans(t, 1)
}

// asksAboutPlans makes requests about write plans. With three servers, those who ask and the worker are each connected to
// another one.
func asksAboutPlans(t *testing.T, count int) {
	in, nodes := servers(t, count)
	operator, _ := in.connect(t, nodes[0], "operator", "headgate")
	team, _ := in.connect(t, nodes[len(nodes)-1], "billing", "billing")
	for who, nc := range map[string]*nats.Conn{"operator": operator, "billing": team} {
		if m, err := nc.RequestWithContext(within(t), source.PlansSubject("submit"), nil); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s submits a plan without a worker: %v, %v; want ErrNoResponders", who, m, err)
		}
	}
	answersPlans(t, in, nodes[len(nodes)/2], func(string) {})
	answered := func(nc *nats.Conn, action string) bool {
		subject := source.PlansSubject(action)
		m, err := nc.RequestWithContext(within(t), subject, []byte("{}"))
		return err == nil && string(m.Data) == fmt.Sprintf(`{"subject":%q}`, subject)
	}
	for _, nc := range []*nats.Conn{operator, team} { // a server hears of a subscription at another some time later
		wait(t, func() bool { return answered(nc, "submit") }, "the worker answers")
	}
	for _, action := range planActions {
		if !answered(operator, action) {
			t.Fatalf("the operator asks for %s; want the worker's answer", action)
		}
		if m, err := team.RequestWithContext(within(t), source.PlansSubject(action), nil); action != "submit" && !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("a team asks for %s: %v, %v; want ErrNoResponders", action, m, err)
		}
	}
	// A replica outside the queue group would answer a second time.
	alone, refused := in.connect(t, nodes[0], "writes", "writes")
	forbidden{"answer outside the queue group", "sub " + source.PlansSubject("*")}.check(t, alone, refused)
}

func TestTeam_ReadsItsDurableAndTheState(t *testing.T) {
	t.Parallel()
	readsAsTeam(t, 1)
}

// A team is added while the server runs, by two reloads.
func TestTeam_WorksAfterTheSecondReload(t *testing.T) {
	t.Parallel()
	in := install(t, "--team", "billing").withTeam(t)
	accounts := filepath.Join(in.config, "accounts.conf")
	with := readFile(t, accounts)
	without := strings.NewReplacer("include team-billing.conf", "", "billing: {", "# billing: {").Replace(with)
	// Servers refuse a key without a user, so the team has one from the start.
	without = strings.Replace(without, "{ nkey: $SYSTEM_NKEY }", "{ nkey: $SYSTEM_NKEY }, { nkey: $BILLING_NKEY }", 1)
	if err := os.WriteFile(accounts, []byte(without), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, in.options(t, "server.conf", "nats"))
	headgate(t, in.as(n, "provision"), "provision")
	asProvision(t, in, n)
	if err := os.WriteFile(accounts, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n.reload(t)
	}
	nc, _ := in.connect(t, n, "billing", "billing")
	if _, err := teamJetStream(t, nc).Consumer(within(t), source.Stream(), "billing"); err != nil {
		t.Errorf("Consumer() = %v; want the team's durable", err)
	}
}

func readsAsTeam(t *testing.T, count int) {
	in, nodes := servers(t, count)
	n := nodes[0]
	headgate(t, in.as(n, "provision"), "provision", "--replicas", fmt.Sprint(len(nodes)))
	asProvision(t, in, n)
	store(t, in, n, "msg_1")
	store(t, in, n, "msg_2")
	worker, _ := run(t, in, n, "connections", "worker-connections", new(connections.Settings), connections.Run)
	wait(t, func() bool { return worker.Health.Ready() == nil }, "the worker is ready")

	nc, _ := in.connect(t, nodes[len(nodes)-1], "billing", "billing")
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

	states, err := state.OpenConnections(within(t), js, source)
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
	writes, err := state.OpenWrites(within(t), js, source)
	if err != nil {
		t.Fatalf("open the state of writes: %v", err)
	}
	if _, err := writes.Get(within(t), "unknown"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("read a write that no event has named: %v; want ErrKeyNotFound", err)
	}
	reads, err := state.OpenReads(within(t), js, source)
	if err != nil {
		t.Fatalf("open the state of reads: %v", err)
	}
	if _, err := reads.Get(within(t), "c", "k", codat.DataBills); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("get a read that no event has named: %v; want ErrKeyNotFound", err)
	}
	awaited := make(chan error, 1)
	go func() {
		_, err := writes.AwaitWrite(within(t), "push-1")
		awaited <- err
	}()
	writer, _ := in.connect(t, n, "writes", "writes")
	if _, err := writer.RequestWithContext(within(t), "$KV."+source.StateBucket(state.WritesName)+".push-1", []byte(`{"status":"Success"}`)); err != nil {
		t.Fatalf("store the state of a write: %v", err)
	}
	if err := <-awaited; err != nil {
		t.Errorf("await a write: %v; want its outcome", err)
	}
	if _, err := state.ReadQuota(within(t), js, source); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("read the quota, of which no event has told: %v; want ErrKeyNotFound", err)
	}
	if _, err := plan.Get(within(t), js, source, "unknown"); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("read a plan that was not submitted: %v; want ErrNotFound", err)
	}

	if _, err := plan.Get(within(t), js, source, "unknown"); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("read a plan that nobody has submitted: %v; want ErrNotFound", err)
	}

	for _, f := range []struct{ name, subject string }{
		{"take a worker's events", "HEADGATE.API.CONSUMER.MSG.NEXT.CODAT.connections"},
		{"make a consumer", "HEADGATE.API.CONSUMER.CREATE.CODAT.mine"},
		{"make one, in its own account", "$JS.API.CONSUMER.CREATE.CODAT.mine"},
		{"read an event by its number", "HEADGATE.API.DIRECT.GET.CODAT"},
		{"read a claim", "$JS.API.DIRECT.GET.KV_CODAT_claims_connections.x"},
		{"ack for a worker", "$JS.ACK.CODAT.connections.1.1.1.1.0"},
		{"store an event", "codat.events.company.created"},
		{"write the state", "$KV.CODAT_connections.x.y"},
		{"write a plan without the worker", "$KV.CODAT_plans.x"},
		{"cancel a plan", "codat.plans.cancel"},
		{"delete the stream", "$JS.API.STREAM.DELETE.CODAT"},
	} {
		if m, err := nc.RequestWithContext(within(t), f.subject, []byte("{}")); !errors.Is(err, nats.ErrNoResponders) && !notEnabled(m) {
			t.Errorf("it can %s: %v, %v; want no answer", f.name, m, err)
		}
	}
	if err := nc.LastError(); err != nil {
		t.Errorf("the server refuses a request of the team: %v; want every request carried out", err)
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
func TestTeam_CannotImportAnothersDurable(t *testing.T) {
	t.Parallel()
	for _, other := range []string{"connections", "payroll"} {
		t.Run(other, func(t *testing.T) {
			t.Parallel()
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
			if _, err := in.parse("server.conf"); err == nil || !strings.Contains(err.Error(), "service import not authorized") {
				t.Errorf("a server with a team that takes the durable of %s: %v; want it refused", other, err)
			}
		})
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
