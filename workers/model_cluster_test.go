//go:build faults

package workers

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const (
	// clusterLease is on the world's clock. A third of it passes in no test.
	clusterLease = time.Hour
	// clusterAckWait is real: after so long the server delivers again what a dead process had.
	clusterAckWait = 200 * time.Millisecond
	// clusterTry is real: after so long a publisher asks again for an answer that a leader has taken with it.
	clusterTry = 300 * time.Millisecond
	// clusterPatience is long: a cluster on a slow machine takes its time to elect.
	clusterPatience = 2 * time.Minute
)

// The model of TestModel_EveryEventAndRedriveIsSettledOnce on a cluster of three whose leaders change, also in the middle of
// a delivery: between two steps, and while a step is on its way. A change of a leader is no excuse for a second effect.
func TestModel_Faults_EveryEventHasOneEndWhileLeadersChange(t *testing.T) {
	t.Parallel()
	c := newModelCluster(t)
	rapid.Check(t, oneOf(10, func(t *rapid.T) {
		c.checks++
		newModelOver(t, func(w *model) modelParts {
			ids := fmt.Sprintf("check_%d_", c.checks)
			return modelParts{Lease: clusterLease, Store: clusterStore{countedEffects{}, c, w}, broker: &clusterBroker{c, w}, ids: ids}
		}).run(t)
	}))
}

// modelCluster is what all checks share: each has webhook-ids of its own in it.
type modelCluster struct {
	*streamtest.Cluster
	publishers [2]*stream.Publisher // of each process
	buckets    [2]jetstream.KeyValue
	consumers  map[bool]jetstream.Consumer // of parked copies, and of the others
	checks     int
}

func newModelCluster(t *testing.T) *modelCluster {
	t.Helper()
	plan := modelWorker(clusterLease, succeed).Spec()
	plan.AckWait = clusterAckWait
	c := &modelCluster{Cluster: streamtest.NewCluster(t, plan), consumers: map[bool]jetstream.Consumer{}}
	until(t, "the consumers to be there", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		var err, parkedErr error
		c.consumers[false], err = c.JS.Consumer(ctx, source.Stream(), "model")
		c.consumers[true], parkedErr = c.JS.Consumer(ctx, source.ParkedStream(), "model")
		return err == nil && parkedErr == nil
	})
	for i := range c.publishers {
		nc, err := stream.Connect(context.Background(), stream.NATS{NATSURL: c.URL}, "model", zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		if c.publishers[i], err = stream.NewPublisher(nc, stream.PublisherOptions{TryTimeout: clusterTry}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.publishers[i].Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		until(t, "the bucket of claims to be there", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
			defer cancel()
			c.buckets[i], err = js.KeyValue(ctx, source.ClaimsBucket("model"))
			return err == nil
		})
	}
	for _, leader := range clusterLeaders { // so that a change of a leader is one
		until(t, leader+" to be obeyed", func() bool {
			m, err := c.NC.Request("$JS.API."+leader, nil, requestTimeout)
			return err == nil && bytes.Contains(m.Data, []byte(`"success":true`))
		})
	}
	return c
}

var claimsLeader = "STREAM.LEADER.STEPDOWN.KV_" + source.ClaimsBucket("model")

// clusterLeaders are the requests after which a leader is another, of all that a worker needs.
var clusterLeaders = []string{
	"STREAM.LEADER.STEPDOWN." + source.Stream(),
	"STREAM.LEADER.STEPDOWN." + source.ParkedStream(),
	"STREAM.LEADER.STEPDOWN." + source.DeadStream(),
	claimsLeader,
	"CONSUMER.LEADER.STEPDOWN." + source.Stream() + ".model",
	"CONSUMER.LEADER.STEPDOWN." + source.ParkedStream() + ".model",
}

// until waits for what a cluster comes to, and ends the test when it does not.
func until(t rapid.TB, what string, holds func() bool) {
	t.Helper()
	if !holdsWithin(clusterPatience, holds) {
		t.Fatalf("not within %v: %s", clusterPatience, what)
	}
}

func holdsWithin(patience time.Duration, holds func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			return false
		}
	}
	return true
}

// clusterStore keeps claims in the cluster, and counts effects.
type clusterStore struct {
	countedEffects
	*modelCluster
	w *model
}

func (s clusterStore) Claims(process int, now func() time.Time) claims.Store {
	return claims.NewKV(s.buckets[process], unanswered{s.publishers[process], s.w}, now)
}

// EffectFaults say which write of a claim, counted from the delivery on, is stored by a leader that has no time to say so.
func (s clusterStore) EffectFaults() []string {
	return []string{"", "", "first", "second", "second", "third"}
}

// unanswered is a publisher of claims that may not learn what became of one.
type unanswered struct {
	*stream.Publisher
	w *model
}

func (u unanswered) Publish(ctx context.Context, m *nats.Msg) (stream.Receipt, error) {
	receipt, err := u.Publisher.Publish(ctx, m)
	if err != nil || u.w.effectFault == "" {
		return receipt, err
	}
	before := map[string]string{"third": "second", "second": "first"}
	fault := u.w.effectFault
	if u.w.effectFault = before[fault]; fault != "first" {
		return receipt, nil
	}
	u.w.broker.elect(change{leader: claimsLeader})
	return stream.Receipt{}, stream.ErrUnavailable
}

// clusterBroker is the cluster as the world of one check sees it.
type clusterBroker struct {
	*modelCluster
	w *model
}

// post stores an event as the ingress does, or a redrive as an operator's command does. The sender retries until it
// is stored.
func (b *clusterBroker) post(k claims.Key) {
	body := []byte(`{"eventType":"bills.write.successful","payload":{"id":"push","status":"Success"}}`)
	typ := string(codat.BillsWriteSuccessful)
	m, err := source.Message(stream.Stored{ID: k.WebhookID, Head: codat.Head{Type: typ}, Received: time.Now()}, body)
	if err != nil {
		b.w.Fatal(err)
	}
	until(b.w, fmt.Sprintf("%v to be stored", k), func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		if k.Redrive == "" {
			_, err = b.publishers[0].Publish(ctx, m)
		} else {
			_, err = deadletter.Redriver{JS: b.JS, Publisher: b.publishers[0], Source: source}.Redrive(ctx, k.Redrive, deadletter.Letter{
				Worker: "model", Type: typ, WebhookID: k.WebhookID, Header: m.Header, Body: body,
			})
		}
		return err == nil
	})
}

func (b *clusterBroker) publish(ctx context.Context, process int, m *nats.Msg) (stream.Receipt, error) {
	return b.publishers[process].Publish(ctx, m)
}

// next is the newest delivery of a message. What else comes meanwhile is kept for its time.
func (b *clusterBroker) next(m *message) jetstream.Msg {
	until(b.w, fmt.Sprintf("%v to be delivered", m.key()), func() bool {
		if m.came == nil {
			b.fetch(m.parked)
		}
		return m.came != nil
	})
	d := m.came
	m.came = nil
	return d
}

// fetch puts what a consumer has at the moment into the world's queue, and counts it.
func (b *clusterBroker) fetch(parkedCopies bool) (n int) {
	batch, err := b.consumers[parkedCopies].FetchNoWait(100)
	if err != nil {
		return 0
	}
	for d := range batch.Messages() {
		if !strings.HasPrefix(d.Headers().Get(stream.HeaderWebhookID), b.w.ids) {
			_ = d.Ack() // of a check that has failed
			continue
		}
		m := b.w.queued(d.Subject(), d.Headers(), parkedCopies)
		if m.acked { // the ack did not arrive
			m.acked, m.due = false, b.w.clock
		}
		m.came = d
		n++
	}
	return n
}

func (b *clusterBroker) quiet() (nothing bool) {
	until(b.w, "the consumers to be settled", func() bool {
		if b.fetch(false)+b.fetch(true) > 0 {
			return true
		}
		for _, c := range b.consumers {
			ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
			info, err := c.Info(ctx)
			cancel()
			if err != nil || info.NumPending > 0 || info.NumAckPending > 0 {
				return false
			}
		}
		nothing = true
		return true
	})
	return nothing
}

// endState asks again for a while: a replica that answers may be behind.
func (b *clusterBroker) endState(c claims.Store, k claims.Key) (state claims.State) {
	holdsWithin(30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		rec, err := c.Get(ctx, k)
		state = rec.State
		return err == nil && (state == claims.Done || state == claims.Dead)
	})
	return state
}

func (b *clusterBroker) letters() (stored map[string]int) {
	until(b.w, "the dead letters to be read", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		stored = map[string]int{}
		return deadletter.List(ctx, b.JS, source, deadletter.Filter{Worker: "model"}, func(l deadletter.Letter) error {
			stored[l.Worker+":"+l.WebhookID+":"+l.Redrive+":"]++
			return nil
		}) == nil
	})
	return stored
}

func (b *clusterBroker) leaders() []string { return clusterLeaders }

// elect does not wait: what comes next comes while there is no leader, or the old one still acts.
func (b *clusterBroker) elect(c change) {
	ask := func() { _ = b.NC.PublishRequest("$JS.API."+c.leader, nats.NewInbox(), nil) }
	if c.after > 0 {
		time.AfterFunc(c.after, ask)
		return
	}
	ask()
}
