package console_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const invoices = "invoices.write.successful"

func TestDead_ListsGroupsAndPages(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	for i := range 55 {
		bury(t, server.JS, deadletter.Letter{
			Worker: "writes", Type: invoices, WebhookID: fmt.Sprint("msg_", i), Company: "acme", Cause: "permanent", Attempts: 2,
			LastError: []string{"422: too long", hostile}[i%2], LastAttempt: time.Now(), Body: []byte("SECRET"),
		})
	}
	c := run(t, newOperating(t, server.JS, operatorUser))
	waitFor(t, c, "/dead", "Of the last day", ">28</a>", ">27</a>")
	body := must(t, "all", get(c, "/dead"), 200, `href="/dead/55"`, `href="/dead/6"`, `href="/dead?before=6"`, "&lt;script&gt;")
	lacks(t, "all", body, `href="/dead/5"`, "SECRET")
	body = must(t, "by error", get(c, "/dead?error=422%3A+too+long&worker=writes"), 200, `href="/dead/55"`)
	lacks(t, "by error", body, `href="/dead/54"`, "dead-replay")
	must(t, "by worker", get(c, "/dead?worker=writes&type=invoices.*.*"), 200, "headgate dead replay --worker writes", "dead-replay")
	must(t, "nothing", get(c, "/dead?company=nobody"), 200, "No dead letter matches.")
	must(t, "bad", get(c, "/dead?type=a..b"), 400, "The filter cannot be used")
	must(t, "none", get(newConsole(t, streamtest.New(t).JS), "/dead"), 200, "No dead letter is open.")
}

func TestDead_ShowsOneAndItsBodyToThoseWhoMay(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	bury(t, server.JS, deadletter.Letter{
		Worker: "writes", Type: invoices, WebhookID: "msg_1", Sequence: 1, Cause: "permanent", Attempts: 2, FirstError: "first", LastError: hostile,
		FirstAttempt: time.Now(), LastAttempt: time.Now(), Host: "host-1", Body: []byte(`{"memo":"SECRET"}`),
	})
	c := newOperating(t, server.JS, operatorUser)
	body := must(t, "letter", get(c, "/dead/1"), 200, "after 2 attempts", "host-1", "first", `href="/events/1"`, "headgate dead replay 1", "Show the body")
	lacks(t, "letter", body, "SECRET", "<script>alert")
	must(t, "body", send(c, "/dead/1/body"), 200, "SECRET", "and recorded")
	viewer := newOperating(t, server.JS, as{Name: "eve", View: true})
	body = must(t, "viewer", get(viewer, "/dead/1"), 200, "needs the right", "headgate dead show 1")
	refused := must(t, "viewer's body", send(viewer, "/dead/1/body"), 403, "is not shown")
	lacks(t, "viewer", body+refused, "SECRET", "Show the body")
	must(t, "absent", get(c, "/dead/2"), 404, "No dead letter 2")
	must(t, "no number", get(c, "/dead/x"), 404, "No such page")
}

func TestQuarantine_ListsAndShowsOne(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	c := newOperating(t, server.JS, operatorUser)
	must(t, "empty", get(c, "/quarantine"), 200, "The quarantine is empty.")
	store(t, server.JS, stream.Stored{ID: "msg_1", Quarantine: "no_type", Head: codat.Head{Company: "acme"}}, `{"memo":"SECRET"}`)
	must(t, "list", get(c, "/quarantine"), 200, `href="/quarantine/1"`, "no_type")
	must(t, "no match", get(c, "/quarantine?cause=not_json"), 200, "No message matches.")
	body := must(t, "one", get(c, "/quarantine/1"), 200, "not readable as an event", "headgate quarantine release 1 --type TYPE", "connection.connected")
	lacks(t, "one", body, "SECRET")
	must(t, "body", send(c, "/quarantine/1/body"), 200, "SECRET")
	viewer := newOperating(t, server.JS, as{Name: "eve", View: true})
	lacks(t, "viewer", must(t, "viewer's body", send(viewer, "/quarantine/1/body"), 403), "SECRET")
	must(t, "absent", get(c, "/quarantine/7"), 404, "is not in the quarantine")
}

func TestCompany_SaysWhetherItsEventsArrive(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes, keeper)
	c := newConsole(t, server.JS)
	must(t, "unknown", get(c, "/companies/acme"), 200, "No event of this company was found", "None was found.")
	n := store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: invoices, Company: "acme", Connection: "books"}}, `{}`)
	must(t, "to come", get(c, "/companies/acme"), 200, "are still to come")
	claim(t, server.JS, "writes", "msg_1", claims.Record{State: claims.Done, Sequence: n, Attempts: 1})
	put(t, server.JS, state.ConnectionsName, "acme.books", state.Connection{Company: "acme", Connection: "books", Status: codat.Linked})
	put(t, server.JS, state.WritesName, "push-1", state.Write{PushOperationKey: "push-1", Status: codat.Success, Company: "acme"})
	put(t, server.JS, state.WritesName, "push-2", state.Write{PushOperationKey: "push-2", Status: codat.Success, Company: "other"})
	put(t, server.JS, state.ReadsName, "acme.books.invoices", state.Read{Company: "acme", Connection: "books", DataType: "invoices", LastRead: time.Now()})
	body := must(t, "handled", get(c, "/companies/acme"), 200, "Its events arrive and are handled", `href="/events/1"`, `href="/connections/acme/books"`, "push-1", `href="/reads/acme/books/invoices"`)
	lacks(t, "handled", body, "push-2")
	bury(t, server.JS, deadletter.Letter{Worker: "writes", Type: invoices, WebhookID: "msg_1", Header: nats.Header{"ce-subject": {"acme"}}, Sequence: n, LastError: hostile, LastAttempt: time.Now()})
	lacks(t, "dead", must(t, "dead", get(c, "/companies/acme"), 200, "1 could not be handled", `href="/dead/1"`), "<script>alert")
	must(t, "hostile", get(c, "/companies/%3Cscript%3Ealert(1)%3C%2Fscript%3E"), 200, "&lt;script&gt;")
}

func TestLetter_DetailOfAnErrorNeedsTheRightAndIsRecorded(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	bury(t, o.JS, deadletter.Letter{Worker: "writes", Type: "invoices.write.successful", WebhookID: "msg_1", Cause: "attempts", Detail: "ANSWER", LastError: "no", LastAttempt: time.Now(), Body: []byte("SECRET")})
	shown := must(t, "viewer", o.page("eve", "/dead/1"), 200) + must(t, "viewer posts", o.form("eve", "/dead/1/body"), 403) + must(t, "unrecorded", o.page("ada", "/dead/1"), 200)
	lacks(t, "a page without a record", shown, "SECRET", "ANSWER")
	must(t, "body", o.form("ada", "/dead/1/body"), 200, "SECRET", "ANSWER")
	if all := o.records(); len(all) != 1 || all[0].User != "ada" {
		t.Errorf("records %+v; want that ada was shown it", all)
	}
}
