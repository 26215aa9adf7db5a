package console_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// newWith returns a console with options.
func newWith(t *testing.T, js jetstream.JetStream, set func(*console.Options)) *console.Console {
	t.Helper()
	o := console.Options{JS: js, Source: source, Access: operatorUser, Log: zaptest.NewLogger(t)}
	set(&o)
	c, err := console.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMissing_ShowsWhatHasNotCome(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	c := run(t, newConsole(t, server.JS))
	body := waitFor(t, c, "/missing", "No type is silent.")
	for _, want := range []string{"No write is overdue.", "No read is stale.", "Codat is not asked.", "--codat-key-file"} {
		if !strings.Contains(body, want) {
			t.Errorf("the empty page lacks %q", want)
		}
	}
	store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: "read.completed"}}, `{}`)
	waitFor(t, c, "/missing", "Nothing is watched.")
	due := time.Now().Add(-3 * time.Hour)
	for _, e := range []state.Expected{
		{Kind: state.SilentType, Type: "read.completed", Due: due, Last: due},
		{Kind: state.OverdueWrite, PushOperationKey: "p-1", Company: "c-1", Connection: hostile, Due: due},
		{Kind: state.StaleRead, Company: "c-1", Connection: "k-1", DataType: "invoices", Due: due},
	} {
		key, err := e.Key()
		if err != nil {
			t.Fatal(err)
		}
		put(t, server.JS, stream.ExpectedState, key, e)
	}
	waitFor(t, c, "/missing", `href="/events?type=read.completed"`)
	must(t, "busy", get(c, "/missing"), 200, `href="/writes/p-1"`, `href="/reads/c-1/k-1/invoices"`, "<td class=\"num\">3 h", "&lt;script&gt;")
}

func TestMissing_SaysWhatCodatAnswers(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	var answer atomic.Pointer[func() ([]api.Webhook, error)]
	var asked atomic.Int64
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	c := run(t, newWith(t, server.JS, func(o *console.Options) {
		o.Endpoints = func(context.Context) ([]api.Webhook, error) { asked.Add(1); return (*answer.Load())() }
		o.Now = func() time.Time { return time.Unix(0, now.Load()) }
	}))
	say := func(all []api.Webhook, err error) {
		f := func() ([]api.Webhook, error) { return all, err }
		answer.Store(&f)
		now.Add(int64(2 * time.Minute))
	}
	say(nil, errors.New("401 Unauthorized "+hostile))
	must(t, "error", get(c, "/missing"), 200, "Codat did not answer", "401 Unauthorized &#34;&gt;&lt;script")
	say(nil, nil)
	must(t, "none", get(c, "/missing"), 200, "Codat has no endpoint.")
	say([]api.Webhook{{ID: "id-1", URL: "https://hooks.example/" + hostile, Disabled: true, EventTypes: []string{"read.completed"}}}, nil)
	body := must(t, "disabled", get(c, "/missing"), 200, "disabled", "only its Portal enables it again", "a worker takes it", "no worker takes it")
	if strings.Index(body, "invoices.write.successful") > strings.Index(body, "no worker takes it") {
		t.Error("the types that a worker takes are not first")
	}
	say([]api.Webhook{{ID: "id-1", URL: "https://hooks.example"}}, nil)
	must(t, "all", get(c, "/missing"), 200, "Every type of the catalog is subscribed.", "enabled")
	before := asked.Load()
	for range 5 {
		get(c, "/missing")
	}
	if n := asked.Load() - before; n != 0 {
		t.Errorf("Codat was asked %d times in the same minute", n)
	}
}

func TestDoctor_RunsOnceAtATime(t *testing.T) {
	t.Parallel()
	js := streamtest.New(t).JS
	must(t, "not configured", get(newWith(t, js, func(*console.Options) {}), "/doctor"), 200, "This console makes no checks.")
	begin, goOn := make(chan struct{}, 100), make(chan error)
	c := newWith(t, js, func(o *console.Options) {
		o.Examine = func(context.Context) (*doctor.Report, error) {
			begin <- struct{}{}
			if err := <-goOn; err != nil {
				return nil, err
			}
			return &doctor.Report{Results: []doctor.Result{
				{Code: "HG-NATS-001", Check: "connection", Status: doctor.OK, Measured: "connected", Threshold: "answers", Runbook: doctor.Runbook + "#doctor"},
				{Code: "HG-X-1", Check: hostile, Status: doctor.Fail, Measured: hostile, Detail: hostile, Threshold: hostile, Cure: "cure " + hostile, Runbook: doctor.Runbook + "#x"},
				{Code: "HG-X-2", Check: "key", Status: doctor.Skipped, Reason: "no key is known", Runbook: doctor.Runbook + "#y"},
			}}, nil
		}
	})
	must(t, "before", get(c, "/doctor"), 200, "No check was made since this process started.")
	for range 3 {
		if w := send(c, "/doctor"); w.Code != 303 || w.Header().Get("Location") != "/doctor" {
			t.Fatalf("POST: %d to %q", w.Code, w.Header().Get("Location"))
		}
	}
	<-begin
	w := get(c, "/doctor")
	must(t, "running", w, 200, "The checks are being made")
	if w.Header().Get("Refresh") == "" {
		t.Error("the page of a running examination does not load itself again")
	}
	goOn <- nil
	waitFor(t, c, "/doctor", "Make the checks again")
	if n := len(begin); n != 0 {
		t.Errorf("%d more examinations began", n)
	}
	body := must(t, "after", get(c, "/doctor"), 200, "1 fail", "1 ok", "1 skipped", "for ada", "no key is known", "blob/main/docs/operate.md#x")
	if strings.Index(body, `id="fail"`) > strings.Index(body, `id="ok"`) {
		t.Error("failures are not first")
	}
	send(c, "/doctor")
	goOn <- fmt.Errorf("no answer: %s", hostile)
	waitFor(t, c, "/doctor", "did not end", "no answer: &#34;&gt;&lt;script")
	must(t, "failed", get(c, "/doctor"), 200)
}
