package console_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// run runs the hub of a console until the test ends.
func run(t *testing.T, c *console.Console) *console.Console {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return c
}

// waitFor asks for a page until it has all texts, and returns it.
func waitFor(t *testing.T, c http.Handler, path string, texts ...string) string {
	t.Helper()
	var body string
	streamtest.Wait(t, func() bool {
		body = get(c, path).Body.String()
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(body, text) })
	}, fmt.Sprintf("%s with %q", path, texts))
	return body
}

// writes is a worker that has a consumer.
var writes = stream.WorkerSpec{Name: "writes", Types: []codat.Pattern{"invoices.write.successful"}}

// store stores an event as the ingress does.
func store(t *testing.T, js jetstream.JetStream, e stream.Stored, body string) uint64 {
	t.Helper()
	if e.Received.IsZero() {
		e.Received = time.Now()
	}
	m, err := stream.Source(source).Message(e, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.PublishMsg(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// bury stores a dead letter.
func bury(t *testing.T, js jetstream.JetStream, l deadletter.Letter) {
	t.Helper()
	p, err := stream.NewPublisher(js.Conn(), stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if l.Header == nil {
		l.Header = nats.Header{}
	}
	if err := deadletter.Bury(t.Context(), p, source, l); err != nil {
		t.Fatal(err)
	}
}

func TestPath_ShowsStationsWorkersAndFindings(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: "invoices.write.successful"}}, `{}`)
	bury(t, server.JS, deadletter.Letter{
		Worker: "writes", Type: "invoices.write.successful", WebhookID: "msg_1", Cause: "permanent", Attempts: 1,
		LastError: "422: <script>alert(1)</script>", LastAttempt: time.Now(),
	})
	c := run(t, newConsole(t, server.JS))
	body := waitFor(t, c, "/", "dead letters", "writes · invoices.write.successful", "headgatedeadletters", `class="alarm"`)
	for _, want := range []string{">Codat<", "Ingress", "Stream", "Workers", "State", "no process", "422: &lt;script&gt;alert(1)&lt;/script&gt;"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(body, "<script>alert") {
		t.Error("the page has the error's markup")
	}
}

func TestPath_ShowsAgeWhenNATSIsAway(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	bury(t, server.JS, deadletter.Letter{Worker: "writes", Type: "invoices.write.successful", WebhookID: "msg_0", Sequence: 1, Cause: "permanent", Attempts: 1, LastAttempt: time.Now()})
	store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: "invoices.write.successful"}}, `{}`)
	c := run(t, newConsole(t, server.JS))
	last := []string{"since the last event", `href="/dead?worker=writes">1<`}
	waitFor(t, c, "/", last...)
	server.Stop()
	defer server.Start()
	waitFor(t, c, "/", append(last, "These are the values of", "not connected to NATS", `class="path stale"`)...)
}

func TestPath_DoesNotSayThatNothingNeedsAPersonWhenNATSIsAway(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	c := run(t, newConsole(t, server.JS))
	waitFor(t, c, "/", "Nothing needs a person")
	server.Stop()
	defer server.Start()
	waitFor(t, c, "/", "What needs a person is not known while NATS does not answer")
}

func TestPath_SaysThatNothingIsKnownYet(t *testing.T) {
	t.Parallel()
	if body := get(newConsole(t, streamtest.New(t).JS), "/").Body.String(); !strings.Contains(body, "are being measured") {
		t.Errorf("a console that does not run yet shows:\n%s", body)
	}
}

func TestLive_SendsPartsThatChange(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	c := run(t, newConsole(t, server.JS))
	web := httptest.NewServer(c)
	defer web.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, web.URL+"/live?part=stations&part=newest", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type is %q", got)
	}
	store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: "invoices.write.successful"}}, `{}`)
	var stations, newest bool
	for lines := bufio.NewScanner(resp.Body); !(stations && newest) && lines.Scan(); {
		stations = stations || strings.Contains(lines.Text(), `<ol class="path"`)
		newest = newest || lines.Text() == "data: 1"
	}
	if !stations || !newest {
		t.Errorf("came: stations %v, newest %v", stations, newest)
	}
}

func TestLive_RefusesUnknownParts(t *testing.T) {
	t.Parallel()
	if w := get(newConsole(t, streamtest.New(t).JS), "/live?part=secrets"); w.Code != http.StatusBadRequest {
		t.Errorf("status %d; want 400", w.Code)
	}
}
