package console_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestWorkers_ListsAndShowsOne(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: "invoices.write.successful"}}, `{}`)
	bury(t, server.JS, deadletter.Letter{
		Worker: "writes", Type: "invoices.write.successful", WebhookID: "msg_1", Cause: "permanent", Attempts: 1, LastError: hostile, LastAttempt: time.Now(),
	})
	bucket, err := server.JS.KeyValue(t.Context(), stream.Source(source).WorkersBucket())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(inspect.Instance{Worker: "writes", Instance: hostile, Host: hostile, Version: hostile, CannotClaim: hostile, Seen: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Put(t.Context(), "writes.one", text); err != nil {
		t.Fatal(err)
	}
	c := run(t, newConsole(t, server.JS))
	waitFor(t, c, "/workers", `href="/workers/writes"`, "cannot claim")
	must(t, "list", get(c, "/workers"), 200, "headgate workers", `data-live="workers"`)
	waitFor(t, c, "/workers/writes", "&lt;script&gt;alert(1)", "cannot claim", "lag over the last minute, now 1")
	body := must(t, "one", get(c, "/workers/writes"), 200, `href="/events?type=invoices.write.successful"`, "in flight", "cannot claim", "Given up in 24 hours")
	lacks(t, "one", body, `value="pause"`)
	must(t, "unknown", get(c, "/workers/none"), 404, "No such worker", "headgate provision")
}

func TestWorkers_SayWhatIsMissing(t *testing.T) {
	t.Parallel()
	waitFor(t, run(t, newConsole(t, streamtest.New(t).JS)), "/workers", "No worker is provisioned")
	c := run(t, newConsole(t, streamtest.New(t, writes).JS))
	waitFor(t, c, "/workers/writes", "No process of it runs", "It has given up nothing")
}

func TestWorker_IsPausedAndResumedFromItsPage(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	page := func(text string) string {
		t.Helper()
		var body string
		streamtest.Wait(t, func() bool {
			w := o.page("ada", "/workers/writes")
			body = w.Body.String()
			return w.Code == 200 && strings.Contains(body, text)
		}, "the page of the worker with "+text)
		return body
	}
	body := page(`value="pause"`)
	lacks(t, "running", body, `value="resume"`)
	lacks(t, "viewer", must(t, "viewer", o.page("eve", "/workers/writes"), 200), `value="pause"`)
	token := o.preview("ada", []string{"kind", "pause", "worker", "writes"})
	if to := o.confirm("ada", token, "kind", "pause", "worker", "writes"); to != "/workers/writes" {
		t.Errorf("a pause leads to %s; want the page of the worker", to)
	}
	lacks(t, "paused", page(`value="resume"`), `value="pause"`)
}
