package nats_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// Support reads of each event what its headers say, as often as it likes, and what became of it, and no body.
func TestSupport_ReadsHeadersAndClaimsAndNoBody(t *testing.T) {
	t.Parallel()
	readsAsSupport(t, 1)
}

func readsAsSupport(t *testing.T, count int) {
	in, nodes := servers(t, count)
	n := nodes[len(nodes)-1]
	headgate(t, in.as(n, "provision"), "provision", "--support", "--replicas", fmt.Sprint(count))
	headgate(t, in.as(n, "provision"), "provision", "--support", "--dry-run") // exits with 1 when something differs

	var want []stream.Stored
	for i, typ := range []string{"connection.connected", "invoices.write.successful", "company.created"} {
		example, ok := examples.Of(typ)
		if !ok {
			t.Fatalf("there is no example of %s", typ)
		}
		head, err := codat.Read(example.Body)
		if err != nil {
			t.Fatal(err)
		}
		e := stream.Stored{ID: fmt.Sprintf("msg_%d", i+1), Head: head, Received: time.Now().UTC()}
		storeAs(t, in, n, e, example.Body)
		e.MsgID, e.Sequence = e.ID, uint64(i+1)
		e.Head.EventID, e.Head.Platform, e.Head.Connections = "", "", nil // no header has them
		want = append(want, e)
	}
	if want[0].Head.Company == "" || want[1].Head.PushOperation == "" {
		t.Fatal("the examples have no company and no push operation key")
	}
	claim(t, in, n, "msg_1")

	nc, refused := in.connect(t, n, "support", "support")
	for range 2 {
		if diff := gocmp.Diff(want, headersAsSupport(t, nc, len(want))); diff != "" {
			t.Errorf("support reads (-want +got):\n%s", diff)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := stream.Bucket(within(t), js, source.ClaimsBucket("connections"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := bucket.Get(within(t), claims.Key{WebhookID: "msg_1"}.String())
	if err != nil {
		t.Fatal(err)
	}
	var record claims.Record
	if err := json.Unmarshal(entry.Value(), &record); err != nil || record.State != claims.Done {
		t.Errorf("the claim is %s, %v; want done", entry.Value(), err)
	}
	select {
	case err := <-refused:
		t.Errorf("the server refused: %v", err)
	default:
	}
	// What is no worker's is not among the workers.
	operator, _ := in.connect(t, n, "operator", "headgate")
	if js, err = jetstream.New(operator); err != nil {
		t.Fatal(err)
	}
	workers, err := stream.Workers(within(t), js, source)
	if err != nil || slices.ContainsFunc(workers, func(c *jetstream.ConsumerInfo) bool { return c.Name == stream.SupportConsumer }) {
		t.Errorf("Workers() = %v, %v; want no consumer of support", workers, err)
	}
}

// headersAsSupport reads that many events from the beginning, and fails when one has a body.
func headersAsSupport(t *testing.T, nc *nats.Conn, count int) (all []stream.Stored) {
	t.Helper()
	answer, err := nc.RequestWithContext(within(t), "$JS.API.CONSUMER.RESET.CODAT."+stream.SupportConsumer, []byte(`{"seq":1}`))
	if err != nil {
		t.Fatalf("set the place: %v", err)
	}
	var reset struct {
		ResetSeq uint64              `json:"reset_seq"`
		Error    *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &reset); err != nil || reset.Error != nil || reset.ResetSeq != 1 {
		t.Fatalf("set the place: %s", answer.Data)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(within(t), source.Stream(), stream.SupportConsumer)
	if err != nil {
		t.Fatal(err)
	}
	for len(all) < count {
		m, err := c.Next(jetstream.FetchContext(within(t)))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Data()) != 0 || meta.Sequence.Consumer != uint64(len(all)+1) {
			t.Errorf("event %d is delivery %d and has the body %q; want the next delivery, without a body", meta.Sequence.Stream, meta.Sequence.Consumer, m.Data())
		}
		all = append(all, source.Open(m))
	}
	return all
}

// storeAs stores an event as the ingress.
func storeAs(t *testing.T, in installation, n *node, e stream.Stored, body []byte) {
	t.Helper()
	nc, _ := in.connect(t, n, "ingress", "ingress")
	defer nc.Close()
	p, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m, err := source.Message(e, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(within(t), m); err != nil {
		t.Fatal(err)
	}
}

// claim marks an event as done, as the worker connections.
func claim(t *testing.T, in installation, n *node, id string) {
	t.Helper()
	nc, _ := in.connect(t, n, "connections", "connections")
	defer nc.Close()
	p, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	record, err := json.Marshal(claims.Record{State: claims.Done, Sequence: 1, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	m := &nats.Msg{Subject: "$KV." + source.ClaimsBucket("connections") + "." + claims.Key{WebhookID: id}.String(), Data: record}
	if _, err := p.Publish(within(t), m); err != nil {
		t.Fatal(err)
	}
}

// Support and the operator ask watch for the events of an id. The answer has what the headers say, and no body.
func TestFind_AnswersOperatorAndSupportWithHeaders(t *testing.T) {
	t.Parallel()
	findsThroughIndex(t, 1)
}

func findsThroughIndex(t *testing.T, count int) {
	in, nodes := servers(t, count)
	n := nodes[len(nodes)-1]
	headgate(t, in.as(n, "provision"), "provision", "--replicas", fmt.Sprint(count))
	example, _ := examples.Of("connection.connected")
	head, err := codat.Read(example.Body)
	if err != nil {
		t.Fatal(err)
	}
	storeAs(t, in, n, stream.Stored{ID: "msg_1", Head: head, Received: time.Now()}, example.Body)
	watch, says := begin(t, in.as(nodes[0], "watch"), "watch", "--admin-listen", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	wait(t, func() bool {
		out := headgate(t, in.as(n, "operator"), "find", head.Company)
		if !strings.Contains(out, "msg_1") {
			t.Fatalf("find prints\n%s\nwant msg_1", out)
		}
		return !strings.Contains(out, "reading the stream")
	}, "watch answers the operator with its index")

	nc, refused := in.connect(t, n, "support", "support")
	answer, err := nc.RequestWithContext(within(t), source.FindSubject(), []byte(`{"id":"`+head.Company+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	var found struct {
		Matches []map[string]any `json:"matches"`
	}
	if err := json.Unmarshal(answer.Data, &found); err != nil || len(found.Matches) != 1 {
		t.Fatalf("support is answered %s, %v; want the event", answer.Data, err)
	}
	known := []string{"sequence", "time", "type", "company", "connection", "push_operation_key", "webhook_id", "subject", "redrive", "original", "quarantine_reason", "bytes", "found_by"}
	for name := range found.Matches[0] {
		if !slices.Contains(known, name) {
			t.Errorf("the answer has %q, which no header says: %s", name, answer.Data)
		}
	}
	// A client without permission is refused, and watch runs on.
	worker, _ := in.connect(t, n, "connections", "connections")
	if m, err := worker.Request(source.FindSubject(), []byte(`{"id":"x"}`), time.Second); err == nil {
		t.Errorf("a worker is answered %s", m.Data)
	}
	select {
	case err := <-refused:
		t.Errorf("the server refused: %v", err)
	default:
	}
	interrupt(t, watch, says)
	for _, line := range n.said.about("Violation") {
		if !strings.Contains(line, "CONNECTIONS") && !strings.Contains(line, `Subject "codat.find"`) {
			t.Errorf("the server refused: %s", line)
		}
	}
}

// answersSearches keeps the index of headgate watch, as its user, and answers with it.
func answersSearches(t *testing.T, in installation, n *node) {
	t.Helper()
	nc, refused := in.connect(t, n, "watch", "watch")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	index := inspect.NewIndex(js, source, inspect.MinIndexBytes)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { index.Run(ctx, func(err error) { t.Logf("the index: %v", err) }) })
	running.Go(func() {
		if err := index.Answer(ctx, nc); err != nil {
			t.Errorf("Answer() = %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for len(refused) > 0 {
			t.Errorf("watch answers and is told %v; want each answer delivered", <-refused)
		}
	})
	wait(t, func() bool { // its subscription is known
		operator, _ := in.connect(t, n, "operator", "headgate")
		defer operator.Close()
		_, err := operator.Request(source.FindSubject(), nil, time.Second)
		return err == nil
	}, "watch answers")
}
