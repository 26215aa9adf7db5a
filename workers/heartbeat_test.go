package workers

import (
	"context"
	"encoding/json"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
)

// A process says in its entry that it cannot claim, also while no event comes.
func TestHeartbeat_SaysThatTheProcessCannotClaim(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	runner := r.runner(&crashingProcess{})
	runner.nc = r.NC
	entry := func() (i inspect.Instance) {
		t.Helper()
		if err := runner.writeInstance(t.Context(), r.JS); err != nil {
			t.Fatal(err)
		}
		kv, err := r.JS.KeyValue(t.Context(), source.WorkersBucket())
		if err != nil {
			t.Fatal(err)
		}
		e, err := kv.Get(t.Context(), "tested."+runner.instance)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(e.Value(), &i); err != nil {
			t.Fatal(err)
		}
		return i
	}
	if i := entry(); i.CannotClaim != "" || i.Worker != "tested" {
		t.Errorf("the entry is %+v; want one that says nothing of claims", i)
	}
	if err := r.JS.DeleteKeyValue(t.Context(), source.ClaimsBucket("tested")); err != nil {
		t.Fatal(err)
	}
	if i := entry(); i.CannotClaim == "" {
		t.Errorf("the entry is %+v; want why it cannot claim", i)
	}
}

func TestMetrics_CountRedrivesThatAreDeadAgain(t *testing.T) {
	r := newFixture(t, Worker{}, func(context.Context, write) error { return Permanent(errBoom) })
	runner := r.runner(&crashingProcess{})
	redrives := func() float64 {
		t.Helper()
		var m dto.Metric
		if err := runner.metrics.redrives.WithLabelValues(string(source)).Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.GetCounter().GetValue()
	}
	r.post("msg_1")
	if got := runner.deliver(r.next(source.Stream())); got != dead || redrives() != 0 {
		t.Fatalf("deliver = %s, and %v redrives are dead; want dead, and none", got, redrives())
	}
	redriver := deadletter.Redriver{JS: r.JS, Publisher: r.publisher, Source: source}
	if _, err := redriver.Redrive(t.Context(), "monday", r.letters()[0]); err != nil {
		t.Fatal(err)
	}
	if got := runner.deliver(r.next(source.Stream())); got != dead || redrives() != 1 {
		t.Errorf("deliver = %s, and %v redrives are dead; want dead, and one", got, redrives())
	}
}
