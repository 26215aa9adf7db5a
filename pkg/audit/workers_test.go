package audit_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// remake deletes the worker's consumer, stores events, and makes the consumer again so that it skips them.
func (r *testBroker) remake(ids ...string) {
	r.Helper()
	ctx := context.Background()
	old, err := r.JS.Consumer(ctx, source.Stream(), "tested")
	if err == nil {
		err = r.JS.DeleteConsumer(ctx, source.Stream(), "tested")
	}
	if err != nil {
		r.Fatal(err)
	}
	r.post(ids...)
	config := old.CachedInfo().Config
	config.DeliverPolicy = jetstream.DeliverNewPolicy
	if _, err := r.JS.CreateConsumer(ctx, source.Stream(), config); err != nil {
		r.Fatal(err)
	}
}

func (r *testBroker) messageTime(id string) time.Time {
	r.Helper()
	st, err := r.JS.Stream(context.Background(), source.Stream())
	if err != nil {
		r.Fatal(err)
	}
	at, _ := r.at.Load(id)
	m, err := st.GetMsg(context.Background(), at.(uint64))
	if err != nil {
		r.Fatal(err)
	}
	return m.Time
}

// What is known of a worker does not depend on the events that the audit reads.
func TestAudit_FindsSkippedEventsBehindTheLastHandledOne(t *testing.T) {
	t.Parallel()
	r := newTestBroker(t)
	r.post("done_1")
	stop := r.work()
	r.quiet(0)
	stop()
	record := fmt.Sprintf(`{"state":"done","seq":1,"attempts":1,"first":%q}`, time.Now().Add(-time.Hour).Format(time.RFC3339Nano))
	if _, err := r.bucket().Put(t.Context(), claimKey("done_1", ""), []byte(record)); err != nil {
		t.Fatal(err)
	}
	r.remake("done_2")
	skipped := func(report audit.Report, what string) {
		t.Helper()
		if len(report.Exceptions) != 1 || report.Exceptions[0].Kind != audit.Skipped || report.Exceptions[0].WebhookID != "done_2" {
			t.Errorf("%s, the audit finds %+v; want done_2 skipped", what, report.Exceptions)
		}
	}
	skipped(r.audit(), "of all events")
	since := r.messageTime("done_2")
	skipped(r.audit(func(a *audit.Audit) { a.Since = since }), "since the last handled event")
	st, err := r.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), 1); err != nil { // as the retention does it
		t.Fatal(err)
	}
	skipped(r.audit(), "when the handled event has expired")
}

func TestAudit_FindsWorkerWithoutConsumer(t *testing.T) {
	t.Parallel()
	r := everything(t)
	if err := r.JS.DeleteConsumer(t.Context(), source.ParkedStream(), "tested"); err != nil {
		t.Fatal(err)
	}
	if e := r.finds("no-consumer").Exceptions[0]; e.Worker != "tested" || e.Stream != source.ParkedStream() {
		t.Errorf("the exception is %+v; want the worker and the parked stream", e)
	}
	if err := r.JS.DeleteConsumer(t.Context(), source.Stream(), "tested"); err != nil {
		t.Fatal(err)
	}
	r.finds("no-consumer", "no-consumer")
	one := r.audit(func(a *audit.Audit) { a.Workers = []string{"tested"} })
	if len(one.Exceptions) != 2 {
		t.Errorf("the audit of the worker finds %+v; want both consumers missing", one.Exceptions)
	}
	streamtest.Provision(t, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{r.worker.Spec()}})
	stop := r.work()
	r.quiet(1)
	stop()
	r.finds()
}

// Both messages of an event that was given again are among the pending acks: they must not stand for another event.
func TestAudit_CountsEveryMessageOfARedrivenEvent(t *testing.T) {
	t.Parallel()
	r := newTestBroker(t)
	r.post("wait_1")
	r.redrive("wait_1", "monday")
	r.redrive("wait_1", "tuesday")
	stop := r.work()
	r.quiet(3)
	stop()
	r.finds()
	r.post("done_1")
	c, err := r.JS.Consumer(t.Context(), source.Stream(), "tested")
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(30 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.finds("acknowledged")
}

// Another publisher than the ingress stores it. The worker takes it for a redrive.
func TestAudit_AcceptsEventWithStrayRedriveHeader(t *testing.T) {
	t.Parallel()
	r := newTestBroker(t)
	for _, id := range []string{"done_1", "dead_1", "park_1"} {
		m := nats.NewMsg("codat.events.invoices.write.successful")
		m.Header.Set(stream.HeaderWebhookID, id)
		m.Header.Set(stream.HeaderRedrive, "stray")
		m.Data = []byte(`{"payload":{}}`)
		if _, err := r.JS.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	stop := r.work()
	r.quiet(0)
	stop()
	r.counts(r.finds(), audit.Worker{Events: 3, Done: 1, Dead: 1, Parked: 1})
}

// sharedClaims are those of a table that several sources share.
type sharedClaims map[claims.Key]claims.Record

func (c sharedClaims) All(_ context.Context, each func(string, uint64, claims.Record) error) error {
	for k, r := range c {
		if err := each(k.String(), 1, r); err != nil {
			return err
		}
	}
	return nil
}

func TestAudit_LeavesClaimsOfOtherSourcesAlone(t *testing.T) {
	t.Parallel()
	r := newTestBroker(t)
	for _, id := range []string{"other_1", "other_2"} {
		r.store(stream.Stored{ID: id, Head: codat.Head{Type: "connection.connected"}})
	}
	open := claims.Record{State: claims.Waiting, Sequence: 1, Attempts: 1, First: time.Now().Add(-time.Hour)}
	other, own := open, open
	other.Source, own.Source = "codat-uk", source
	find := func(c sharedClaims) []audit.Exception {
		return r.audit(func(a *audit.Audit) { a.ExternalClaims = map[string]audit.Claims{"tested": c} }).Exceptions
	}
	if got := find(sharedClaims{{WebhookID: "uk_1"}: other, {WebhookID: "early_1"}: open}); len(got) != 0 {
		t.Errorf("the audit finds %+v; want nothing of another source, or of one that is not known", got)
	}
	if got := find(sharedClaims{{WebhookID: "gone_1"}: own}); len(got) != 1 || got[0].Kind != audit.Expired {
		t.Errorf("the audit finds %+v; want the source's own event expired", got)
	}
}
