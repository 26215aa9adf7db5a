package nats_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
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
