//go:build faults

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/writes"
)

// A killing is a point of a plan at which the process that carries it out is killed.
type killing struct {
	name string
	// push reports whether a push that the stand-in was asked for is the point. Its answer is held until the process is dead.
	push func(codattest.Push) bool
	// record reports whether the record of a plan is the point; nil when push says it.
	record func(plan.Record) bool
}

func pushOf(d codat.DataType) func(codattest.Push) bool {
	return func(p codattest.Push) bool { return p.DataType == d }
}

var killings = []killing{
	{name: "submitted", record: func(plan.Record) bool { return true }},
	{name: "the first call", push: pushOf(codat.DataChartOfAccounts)},
	{name: "the first is pending", record: func(r plan.Record) bool { return r.Steps[0].State == plan.Pending }},
	{name: "the first is done", record: func(r plan.Record) bool { return r.Steps[0].State == plan.Done }},
	{name: "the second call", push: pushOf(codat.DataDirectCosts)},
	{name: "the second is pending", record: func(r plan.Record) bool { return r.Steps[1].State == plan.Pending }},
	{name: "the attachment", push: func(p codattest.Push) bool { return p.Type == codat.WriteUploadAttachment }},
}

// worker-writes is killed at every step of a plan. In the end every plan is done, and the platform was asked once for each
// write.
func TestPromise9_KilledWorkersPushEachStepOnce(t *testing.T) {
	b := newBroker(t, 1, stream.Layout{Workers: []stream.WorkerSpec{writes.Worker(writes.Store{}).Spec()}})
	var in *ingress
	signs, keyFile := newSender(t, func() string { return in.host() })
	in = newIngress(t, "ingress", b.url, keyFile, "--drain-delay", "0s")
	in.waitReady()
	reached := &point{}
	platform, err := codattest.Start(codattest.Options{Speed: 1000, Outcome: func(p codattest.Push) (codattest.Outcome, bool) {
		o := codattest.Succeed(50 * time.Millisecond)
		o.Hold = reached.at(p)
		return o, true
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	platform.AddCompany(codattest.Company{ID: "company-1", Name: "A Company", Connections: []string{"connection-1"}})
	platform.AddEndpoint(codattest.Endpoint{URL: "http://" + in.host() + hook, Key: signs.key})
	apiKey := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(apiKey, []byte(codattest.DefaultKey), 0o600); err != nil {
		t.Fatal(err)
	}
	worker := launch(t, "worker-writes", "worker-writes", "", "--admin-listen", "127.0.0.1:0", "--nats-url", b.url, "--log-level", "warn",
		"--codat-key-file", apiKey, "--codat-url", platform.URL(), "--codat-timeout", "5s")
	for i, k := range killings {
		submitPlans(t, b.js, k, i, reached, worker)
	}
	for i, k := range killings {
		for j := range plansPerKilling {
			awaitDone(t, b.js, planID(i, j), k.name)
		}
	}
	made := map[string]int{}
	for _, p := range platform.Pushes() {
		made[string(p.DataType)+" "+string(p.Type)+" "+string(p.Body)]++
	}
	for what, times := range made {
		if times != 1 {
			t.Errorf("%.200s was made %d times; want once", what, times)
		}
	}
	if want := len(killings) * plansPerKilling * 3; len(platform.Pushes()) != want {
		t.Errorf("%d push operations; want %d", len(platform.Pushes()), want)
	}
}

const plansPerKilling = 3

func planID(killing, number int) string { return fmt.Sprintf("plan-%d-%d", killing, number) }

// submitPlans submits plans, kills the worker at the point, and starts it again.
func submitPlans(t *testing.T, js jetstream.JetStream, k killing, number int, reached *point, worker *program) {
	t.Helper()
	hit, release := reached.arm(k.push)
	for j := range plansPerKilling {
		submitPlan(t, js, planID(number, j))
	}
	if k.record == nil {
		wait(t, func() bool {
			select {
			case <-hit:
				return true
			default:
				return false
			}
		}, what("the stand-in is asked at "+k.name))
	} else {
		wait(t, func() bool {
			r, err := plan.Get(t.Context(), js, source, planID(number, 0))
			// It may have gone on since.
			return err == nil && (k.record(r) || r.Status == plan.StatusDone)
		}, what("a plan to be at: "+k.name))
	}
	worker.kill()
	release()
	worker.start()
}

func submitPlan(t *testing.T, js jetstream.JetStream, id string) {
	t.Helper()
	file, err := json.Marshal(bytes.Repeat([]byte(id), 10))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Parse(fmt.Appendf(nil, `{"id":%[1]q,"company":"company-1","connection":"connection-1","steps":[
		{"name":"account","kind":"create","dataType":"chartOfAccounts","body":{"of":%[1]q}},
		{"name":"cost","kind":"create","dataType":"directCosts","body":{"of":%[1]q,"account":"${steps.account.record.id}"}},
		{"name":"receipt","kind":"attachment","dataType":"directCosts","record":"${steps.cost.record.id}","file":{"name":"r.txt","contentType":"text/plain","content":%[2]s}}]}`, id, file))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = plan.Submit(ctx, js.Conn(), source, p)
		return err == nil
	}, func() string { return fmt.Sprintf("%s is submitted: %v", id, err) })
}

func awaitDone(t *testing.T, js jetstream.JetStream, id, killing string) {
	t.Helper()
	var r plan.Record
	wait(t, func() bool {
		var err error
		r, err = plan.Get(t.Context(), js, source, id)
		return err == nil && r.Status == plan.StatusDone
	}, func() string {
		return fmt.Sprintf("%s, killed at %s, is done: it is %s: %+v", id, killing, r.Status, r.Steps)
	})
}

// A point holds the first push that it is armed for.
type point struct {
	mu   sync.Mutex
	push func(codattest.Push) bool
	hit  chan struct{}
	held chan struct{}
}

// arm waits for a push. hit is closed when the stand-in is asked for it; its answer is held until release.
func (p *point) arm(push func(codattest.Push) bool) (hit <-chan struct{}, release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.push, p.hit, p.held = push, make(chan struct{}), make(chan struct{})
	return p.hit, sync.OnceFunc(func() { close(p.held) })
}

// at returns what holds the answer to a push, and nil for most.
func (p *point) at(push codattest.Push) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.push == nil || !p.push(push) {
		return nil
	}
	p.push = nil
	close(p.hit)
	return p.held
}
