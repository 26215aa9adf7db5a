package console_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A log-in leads to the address that was asked for: after the end of a session that is the address of the form, which has no page.
func TestForms_AddressesLeadToTheirPages(t *testing.T) {
	t.Parallel()
	c := newConsole(t, streamtest.New(t, writes).JS)
	for address, page := range map[string]string{
		"/events/1/body": "/events/1", "/events/1/proof": "/events/1", "/dead/2/body": "/dead/2", "/quarantine/3/body": "/quarantine/3",
		"/writes/%2F%2Fevil.example/reason": "/writes/%2F%2Fevil.example", "/jobs/abc/cancel": "/jobs/abc",
	} {
		w := get(c, address)
		if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != page {
			t.Errorf("%s: %d to %q; want 303 to %q", address, w.Code, got, page)
		}
	}
}

// A body of 100 kB of which json.Indent makes 1 GB is shown as it is.
func TestBody_DeepNestingCostsNothing(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	deep := strings.Repeat("[", 9_990) + strings.Repeat("1,", 50_000) + "1" + strings.Repeat("]", 9_990)
	store(t, server.JS, stream.Stored{ID: "msg_deep", Head: codat.Head{Type: "invoices.write.successful"}}, deep)
	body := must(t, "body", send(newOperating(t, server.JS, operatorUser), "/events/1/body"), 200, "[[[[")
	if strings.Contains(body, "Body, formatted") {
		t.Error("the body is indented")
	}
}

// Explaining a signature that does not match takes a second and much memory: viewers wait for each other.
func TestProof_OneAtATime(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: "invoices.write.successful"}}, `{}`)
	var at, most atomic.Int32
	c, err := console.New(console.Options{JS: server.JS, Source: source, Access: operatorUser, Log: zaptest.NewLogger(t), Keys: func() []signature.Key {
		if n := at.Add(1); n > most.Load() {
			most.Store(n)
		}
		for range 10_000 {
			runtime.Gosched()
		}
		at.Add(-1)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	var viewers sync.WaitGroup
	for range 8 {
		viewers.Go(func() {
			c.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/events/1/proof", nil))
		})
	}
	viewers.Wait()
	if most.Load() != 1 {
		t.Errorf("%d proofs were made at a time; want 1", most.Load())
	}
}

// An id in a foreign event has any form: its link leads to its page, and nowhere else.
func TestLinks_OfAnyID(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	for i, id := range []string{"a?b#c/../d", `"><script>alert(1)</script>`, "..", "//evil.example"} {
		store(t, server.JS, stream.Stored{ID: fmt.Sprint("msg_", i), Head: codat.Head{Type: "invoices.write.successful", Company: id}}, `{}`)
	}
	body := must(t, "events", get(newConsole(t, server.JS), "/events"), 200,
		`href="/companies/a%3Fb%23c%2F..%2Fd"`, `href="/companies/%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E"`, `href="/events?company=.."`, `href="/companies/%2F%2Fevil.example"`)
	if strings.Contains(body, "<script>alert") {
		t.Error("an id is markup")
	}
}

// A HEAD of the live values is answered and over: the client sends its next request over the same connection.
func TestLive_Head(t *testing.T) {
	t.Parallel()
	served := httptest.NewServer(newConsole(t, streamtest.New(t, writes).JS))
	t.Cleanup(served.Close)
	client := served.Client()
	client.Timeout = time.Minute
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		address := served.URL + map[string]string{http.MethodHead: "/live?part=stations", http.MethodGet: console.Asset("style.css")}[method]
		req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s %s: %s", method, address, resp.Status)
		}
	}
}
