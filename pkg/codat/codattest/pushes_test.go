package codattest_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
)

func TestPush_HasFourEnds(t *testing.T) {
	t.Parallel()
	type moment struct {
		at     time.Duration
		status codat.PushStatus
		events int // so far
	}
	tests := []struct {
		name    string
		outcome codattest.Outcome
		timeout int // minutes
		moments []moment
		last    string // type of the last event
		reason  string
	}{
		{"success", codattest.Succeed(time.Minute), 0, []moment{{59 * time.Second, codat.Pending, 0}, {time.Minute, codat.Success, 1}, {time.Hour, codat.Success, 1}}, "bills.write.successful", ""},
		{"failure", codattest.Fail(time.Minute, "no such supplier"), 0, []moment{{time.Minute, codat.Failed, 1}, {time.Hour, codat.Failed, 1}}, "bills.write.unsuccessful", "no such supplier"},
		{"time-out", codattest.TimeOut(time.Minute), 0, []moment{{time.Minute, codat.TimedOut, 1}, {time.Hour, codat.TimedOut, 1}}, "bills.write.unsuccessful", ""},
		{"late success", codattest.SucceedLate(time.Minute, time.Hour), 0, []moment{{time.Minute, codat.TimedOut, 1}, {time.Hour, codat.Success, 2}}, "bills.write.successful", ""},
		{"none", codattest.StayPending(), 0, []moment{{24 * time.Hour, codat.Pending, 0}}, "", ""},
		{"none, with a limit", codattest.StayPending(), 30, []moment{{29 * time.Minute, codat.Pending, 0}, {30 * time.Minute, codat.TimedOut, 1}}, "bills.write.unsuccessful", ""},
		{"success before its limit", codattest.Succeed(time.Minute), 30, []moment{{time.Minute, codat.Success, 1}, {time.Hour, codat.Success, 1}}, "bills.write.successful", ""},
		{"success is not taken back", codattest.Outcome{Ends: []codattest.End{{After: 1, Status: codat.Success}, {After: 2, Status: codat.Failed}}}, 0, []moment{{time.Hour, codat.Success, 1}}, "bills.write.successful", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var changes []codat.PushStatus
			s := start(t, codattest.Options{
				Outcome: func(codattest.Push) (codattest.Outcome, bool) { return tt.outcome, true },
				Changed: func(p codattest.Push) { changes = append(changes, p.Status) },
			})
			in := s.endpoint(&inbox{}, codattest.Endpoint{})
			to := bills
			to.TimeoutMinutes = tt.timeout
			op, err := s.client.Create(t.Context(), to, first, []byte(`{"note":"x"}`))
			if err != nil || op.Status != codat.Pending || !op.Completed.IsZero() || op.TimeoutMinutes != tt.timeout {
				t.Fatalf("Create = %+v, %v; want Pending", op, err)
			}
			var at time.Duration
			for _, m := range tt.moments {
				s.clock.Advance(m.at - at)
				at = m.at
				op, err = s.client.Push(t.Context(), company, op.PushOperationKey)
				if err != nil || op.Status != m.status || len(in.all()) != m.events {
					t.Errorf("after %v: %s, %v, %d events; want %s and %d", at, op.Status, err, len(in.all()), m.status, m.events)
				}
			}
			if tt.reason != "" && (op.ErrorMessage != tt.reason || op.Validation.Errors[0].Message != tt.reason) {
				t.Errorf("the reason is %q, %+v; want %q", op.ErrorMessage, op.Validation, tt.reason)
			}
			if len(changes) != 1+len(in.all()) || changes[0] != codat.Pending || changes[len(changes)-1] != op.Status {
				t.Errorf("Changed was called with %q; want Pending, and each change of which an event tells", changes)
			}
			record := ""
			if op.Status == codat.Success {
				record = op.Changes[0].Record.ID
				if record == "" || op.Changes[0].Type != api.ChangeCreated || s.Records(company, connection, "bills") != 1 {
					t.Errorf("changes %+v, %d records; want one", op.Changes, s.Records(company, connection, "bills"))
				}
			}
			if tt.last == "" {
				return
			}
			body := []byte(in.all()[len(in.all())-1])
			head, err := codat.Read(body)
			if err != nil || head.Type != tt.last || head.Company != company || head.Connection != connection {
				t.Errorf("the last event is %+v, %v; want %s", head, err, tt.last)
			}
			w, err := codat.Decode[codat.Write](body)
			if err != nil || w.PushOperationKey() != op.PushOperationKey || w.Status != op.Status || w.Type != codat.WriteCreate || w.Record.ID != record {
				t.Errorf("its payload is %+v, %v", w, err)
			}
		})
	}
}

func TestPush_OutcomeIsScripted(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{
		Outcome: func(p codattest.Push) (codattest.Outcome, bool) {
			return codattest.Refuse(503, "gone"), p.Number == 1
		},
		ByDataType: map[codat.DataType]codattest.Outcome{"invoices": codattest.Fail(0, "closed")},
	})
	invoices := bills
	invoices.DataType = "invoices"
	steps := []struct {
		name string
		to   api.Target
		body string
		want codat.PushStatus // "" is an error
	}{
		{"by a function", bills, `{}`, ""},
		{"by a marker", bills, `{"note":"codattest:late"}`, codat.TimedOut},
		{"by a marker, before the data type", invoices, `{"note":"codattest:pending"}`, codat.Pending},
		{"by data type", invoices, `{}`, codat.Failed},
		{"not at all", bills, `{}`, codat.Success},
		{"a refusal by a marker", bills, `{"note":"codattest:429"}`, ""},
	}
	for i, step := range steps {
		key := strings.Replace(first, "1de", "1d"+string(rune('0'+i)), 1)
		op, err := s.client.Create(t.Context(), step.to, key, []byte(step.body))
		if (err != nil) != (step.want == "") {
			t.Errorf("%s: Create = %v", step.name, err)
		}
		s.clock.Advance(2 * time.Second)
		if err == nil {
			if op, err = s.client.Push(t.Context(), company, op.PushOperationKey); err != nil || op.Status != step.want {
				t.Errorf("%s: %s, %v; want %s", step.name, op.Status, err, step.want)
			}
		}
	}
	if s.client.PausedUntil(company).IsZero() {
		t.Error("the 429 has no Retry-After")
	}
}

func TestPush_UpdatesDeletesAndAttaches(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	s.AddRecord(company, connection, "bills", "bills/7")
	for _, tt := range []struct {
		name string
		call func() (api.PushOperation, error)
		want api.ChangeType
	}{
		{"update", func() (api.PushOperation, error) { return s.client.Update(t.Context(), bills, "bills/7", []byte(`{}`)) }, api.ChangeModified},
		{"attachment", func() (api.PushOperation, error) {
			return s.client.UploadAttachment(t.Context(), bills, "bills/7", first, api.Attachment{Name: "a.pdf", ContentType: "application/pdf"})
		}, api.ChangeAttachmentUploaded},
		{"delete", func() (api.PushOperation, error) { return s.client.Delete(t.Context(), bills, "bills/7") }, api.ChangeDeleted},
	} {
		op, err := tt.call()
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		s.clock.Advance(time.Minute)
		op, err = s.client.Push(t.Context(), company, op.PushOperationKey)
		if err != nil || op.Changes[0].Type != tt.want || op.Changes[0].Record.ID != "bills/7" {
			t.Errorf("%s: %+v, %v; want %s", tt.name, op, err, tt.want)
		}
		if attached := op.Changes[0].AttachmentID != ""; attached != (tt.want == api.ChangeAttachmentUploaded) {
			t.Errorf("%s: attachment %q", tt.name, op.Changes[0].AttachmentID)
		}
	}
	if _, err := s.client.Delete(t.Context(), bills, "bills/7"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a second delete = %v; want ErrNotFound", err)
	}
	for _, tt := range []struct {
		name, method, path, body string
		want                     int
	}{
		{"a data type that is only read", "POST", strings.Replace(push, "bills", "balanceSheet", 1), `{}`, 400},
		{"an update of a data type that is only created", "PUT", strings.Replace(push, "bills", "items", 1) + "/7", `{}`, 400},
		{"no JSON", "POST", push, `{`, 400},
		{"another company", "POST", strings.Replace(push, company, connection, 1), `{}`, 404},
		{"another connection", "POST", strings.Replace(push, connection, company, 1), `{}`, 404},
		{"the path of other attachments", "POST", push + "/7/attachment", ``, 404},
		{"no form", "POST", push + "/7/attachments", `{}`, 415},
		{"no number of minutes", "POST", push + "?timeoutInMinutes=soon", `{}`, 400},
		{"another call", "GET", "/clients", ``, 404},
	} {
		if got := s.call(tt.method, tt.path, tt.body); got.status != tt.want || !strings.Contains(got.body, "correlationId") {
			t.Errorf("%s: %d %s; want %d", tt.name, got.status, got.body, tt.want)
		}
	}
	if got := s.call("GET", "/webhooks", "", "Authorization", "x"); got.status != http.StatusOK {
		t.Errorf("the key first: %d", got.status)
	}
	if len(s.Pushes()) != 3 {
		t.Errorf("%d pushes were made; want 3", len(s.Pushes()))
	}
}

func TestPush_HistoryIsSearchedAndHasNoKeys(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	invoices := bills
	invoices.DataType = "invoices"
	for i, to := range []api.Target{bills, invoices, bills} {
		if _, err := s.client.Create(t.Context(), to, strings.Replace(first, "1de", "1d"+string(rune('0'+i)), 1), []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		s.clock.Advance(time.Minute)
	}
	for _, tt := range []struct {
		name string
		page api.Page
		want string // data types
		all  int
	}{
		{"all", api.Page{}, "bills invoices bills", 3},
		{"the newest first, in pages", api.Page{OrderBy: "-requestedOnUtc", Size: 2}, "bills invoices", 3},
		{"the second page", api.Page{OrderBy: "-requestedOnUtc", Size: 2, Number: 2}, "bills", 3},
		{"behind the end", api.Page{Number: 9}, "", 3},
		{"by data type, status and connection", api.Page{Query: "dataType=bills&&status=Success&&dataConnectionKey=" + connection}, "bills bills", 2},
		{"by time", api.Page{Query: "requestedOnUtc>=2026-02-03T09:01:00Z && requestedOnUtc<2026-02-03T09:02:00Z"}, "invoices", 1},
		{"other than", api.Page{Query: "dataType!=bills"}, "invoices", 1},
	} {
		list, err := s.client.Pushes(t.Context(), company, tt.page)
		var got []string
		for _, op := range list.Results {
			got = append(got, string(op.DataType))
		}
		if err != nil || strings.Join(got, " ") != tt.want || list.Total != tt.all {
			t.Errorf("%s: %q of %d, %v; want %q of %d", tt.name, got, list.Total, err, tt.want, tt.all)
		}
	}
	for _, query := range []string{"query=idempotencyKey%3Dx", "query=status", "query=requestedOnUtc%3Esoon", "orderBy=status", "page=0", "pageSize=x"} {
		if got := s.call("GET", "/companies/"+company+"/push?"+query, ""); got.status != 400 {
			t.Errorf("%s = %d; want 400", query, got.status)
		}
	}
	if got := s.call("GET", "/companies/"+company+"/push", ""); strings.Contains(got.body, "1d0") || strings.Contains(strings.ToLower(got.body), "idempotency") {
		t.Errorf("the history has idempotency keys: %s", got.body)
	}
	if pushes := s.Pushes(); len(pushes) != 3 || pushes[0].IdempotencyKey == "" {
		t.Errorf("the test does not see the keys: %+v", pushes)
	}
}

func TestQuota_IsOfTheDay(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{Quota: 3})
	in := s.endpoint(&inbox{}, codattest.Endpoint{EventTypes: []string{"client.rateLimit.reached", "client.rateLimit.reset"}})
	for n := range 5 {
		got := s.call("POST", push, `{}`, "Idempotency-Key", first)
		want := []string{"200 2 ", "200 1 ", "200 0 ", "429 0 54000", "429 0 54000"}[n]
		if have := strings.Join([]string{map[int]string{200: "200", 429: "429"}[got.status], got.header.Get("X-Rate-Limit-Remaining"), got.header.Get("Retry-After")}, " "); have != want {
			t.Errorf("call %d: %q; want %q", n+1, have, want)
		}
		if limit, reset := got.header.Get("X-Rate-Limit-Limit"), got.header.Get("X-Rate-Limit-Reset"); limit != "3" || reset != "2026-02-04T00:00:00.0000000Z" {
			t.Errorf("limit %q until %q", limit, reset)
		}
	}
	s.clock.Advance(15 * time.Hour)
	var types []string
	for _, body := range in.all() {
		head, err := codat.Read([]byte(body))
		if err != nil || head.Company != "" {
			t.Errorf("%+v, %v", head, err)
		}
		types = append(types, head.Type)
	}
	if want := []string{"client.rateLimit.reached", "client.rateLimit.reset"}; !cmp.Equal(types, want) {
		t.Errorf("events %q; want %q", types, want)
	}
	if got := s.call("GET", "/webhooks", ""); got.status != 200 {
		t.Errorf("on the next day: %d", got.status)
	}
	if len(s.Pushes()) != 1 {
		t.Errorf("%d pushes; want one", len(s.Pushes()))
	}
}

func TestServer_ServesTenCallsOfOneCompanyAtOnce(t *testing.T) {
	t.Parallel()
	hold, asked := make(chan struct{}), make(chan struct{})
	s := start(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) {
		asked <- struct{}{}
		return codattest.Outcome{Hold: hold}, true
	}})
	answers := make(chan raw, 10)
	for range 10 {
		go func() { answers <- s.call("POST", push, `{}`) }()
	}
	for range 10 {
		<-asked
	}
	if got := s.call("GET", "/companies/"+company+"/push", ""); got.status != 429 || got.header.Get("Retry-After") != "1" {
		t.Errorf("the eleventh call: %d, Retry-After %q; want 429 and 1", got.status, got.header.Get("Retry-After"))
	}
	if got := s.call("GET", "/webhooks", ""); got.status != 200 {
		t.Errorf("a call that concerns no company: %d", got.status)
	}
	close(hold)
	for range 10 {
		if got := <-answers; got.status != 200 {
			t.Errorf("a call that was held: %d", got.status)
		}
	}
}

func TestServer_AnswersReads(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	in := s.endpoint(&inbox{}, codattest.Endpoint{})
	list, err := s.client.Connections(t.Context(), company, api.Page{})
	if err != nil || len(list.Results) != 1 || list.Results[0].ID != connection || list.Results[0].Status != codat.Linked {
		t.Errorf("Connections = %+v, %v", list, err)
	}
	if o, err := s.client.Options(t.Context(), bills); err != nil || o.Type != "Object" || len(o.Properties) != 1 {
		t.Errorf("Options = %+v, %v", o, err)
	}
	op, err := s.client.Refresh(t.Context(), company, "items", connection)
	if err != nil || op.IsCompleted {
		t.Errorf("Refresh = %+v, %v", op, err)
	}
	if err := s.client.RefreshAll(t.Context(), company); err != nil {
		t.Error(err)
	}
	if status, err := s.client.DataStatus(t.Context(), company); err != nil || status["items"].CurrentStatus != codat.DatasetFetching {
		t.Errorf("DataStatus = %+v, %v", status, err)
	}
	s.clock.Advance(time.Minute)
	if status, err := s.client.DataStatus(t.Context(), company); err != nil || status["items"].CurrentStatus != codat.DatasetComplete || status["items"].LatestSuccessfulSyncID != op.ID || len(status) != 3 {
		t.Errorf("DataStatus = %+v, %v", status, err)
	}
	history, err := s.client.DataHistory(t.Context(), company, api.Page{})
	if err != nil || history.Total != 3 || !history.Results[0].IsCompleted || history.Results[0].ID != op.ID {
		t.Errorf("DataHistory = %+v, %v", history, err)
	}
	if got := in.all(); len(got) != 3 || !slices.ContainsFunc(got, func(b string) bool { return strings.Contains(b, `"read.completed"`) && strings.Contains(b, `"items"`) }) {
		t.Errorf("events %q; want three of reads", got)
	}
}

// What Options has is not called after Close: a test that has ended must not be logged to.
func TestClose_WaitsForCalls(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	var left atomic.Bool
	s := start(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) {
		close(entered)
		<-leave
		left.Store(true)
		return codattest.Outcome{}, false
	}})
	called := make(chan error, 1)
	go func() {
		_, err := s.client.Create(t.Context(), bills, first, []byte(`{}`))
		called <- err
	}()
	<-entered
	waited := make(chan bool, 1)
	go func() {
		s.Close()
		waited <- left.Load()
	}()
	if err := <-called; !errors.Is(err, api.ErrOutcomeUnknown) {
		t.Errorf("Create = %v; want the end of its connection", err)
	}
	close(leave) // Close has ended the connection, and waits for the call
	if !<-waited {
		t.Error("Close has returned while a call was in progress")
	}
}
