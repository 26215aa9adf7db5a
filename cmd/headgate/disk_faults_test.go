//go:build faults

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// auditAllCopies runs headgate audit until it has read every copy, and returns what it prints and its exit code.
func (r *broker) auditAllCopies() (out string, code int) {
	r.Helper()
	for late := time.Now().Add(3 * time.Minute); ; {
		c := begin(r, "", "audit", "--settle", "200ms", "--nats-url", r.URL)
		<-c.ended
		if strings.Contains(c.out.String(), "read on node-0, node-1, node-2") {
			return c.out.String(), c.code
		}
		if time.Now().After(late) {
			r.Fatalf("headgate audit does not read every copy:\n%s%s", &c.out, &c.err)
		}
	}
}

// The runbook "A disk is damaged" on three servers: the consumer's leader has the damage, and passes the event.
func TestFaults_RunbookOfADamagedDisk(t *testing.T) {
	handled := make(chan codat.Event[codat.Company], 9)
	w := bookkeeper(handled)
	cluster := streamtest.NewCluster(t, w.Spec())
	p, err := stream.NewPublisher(cluster.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	r := &broker{&streamtest.Server{URL: cluster.URL, NC: cluster.NC, JS: cluster.JS}, t, p}
	for _, id := range []string{"done_1", "done_2", "done_3"} {
		r.event("company.created", id)
	}
	const node = 0
	cluster.Damage(node, source.Stream(), "done_2")
	streamtest.Wait(t, func() bool {
		c, err := r.JS.Consumer(t.Context(), source.Stream(), w.Name)
		if err == nil && c.CachedInfo().Cluster.Leader == cluster.NodeName(node) {
			return true
		}
		_, _ = r.NC.Request("$JS.API.CONSUMER.LEADER.STEPDOWN.CODAT."+w.Name, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, cluster.NodeName(node)), time.Second)
		return false
	}, "the damaged server leads the consumer")
	stop := r.work(w)
	streamtest.Wait(t, func() bool {
		c, err := r.JS.Consumer(t.Context(), source.Stream(), w.Name)
		return err == nil && c.CachedInfo().Delivered.Stream == 3 && c.CachedInfo().NumAckPending == 0
	}, "the worker is past the last event")
	stop()

	out, code := r.auditAllCopies()
	if code != 1 {
		t.Errorf("headgate audit exits with %d; want 1", code)
	}
	contains(t, out, "EXCEPTION    #2", cluster.NodeName(node)+"  CODAT: unreadable: ", "done_2 ", "skipped: ", "headgate replay --worker bookkeeper")

	cluster.Wipe(node) // step 1
	out, _ = r.auditAllCopies()
	if strings.Contains(out, "unreadable") {
		t.Errorf("headgate audit says after step 1:\n%s", out)
	}
	r.headgate(0, "replay", "--worker", w.Name, "--id", "done_2") // step 3
	defer r.work(w)()
	streamtest.Wait(t, func() bool { return len(handled) == 3 }, "the event that was passed is handled")
	streamtest.Wait(t, func() bool {
		out, code = r.auditAllCopies()
		return code == 0
	}, "headgate audit finds nothing")
	times := map[string]int{}
	for len(handled) > 0 {
		times[(<-handled).WebhookID]++
	}
	if len(times) != 3 || times["done_1"] != 1 || times["done_2"] != 1 || times["done_3"] != 1 {
		t.Errorf("handled %v; want each event once", times)
	}
}
