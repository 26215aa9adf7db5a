package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
)

const pending = `{"pushOperationKey":"` + opKey + `","companyId":"` + company + `","dataConnectionKey":"` + connection + `","dataType":"bills",
	"requestedOnUtc":"2026-02-03T10:15:05.1234567","completedOnUtc":null,"timeoutInMinutes":null,"timeoutInSeconds":null,
	"status":"Pending","statusCode":202,"errorMessage":null,"validation":null,"changes":null,"data":{"total":1}}`

// Each method makes the request that Codat documents, and reads the answer that it documents.
func TestClient_Calls(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		call   func(context.Context, *api.Client) (any, error)
		want   string // method, escaped path, query
		key    string
		body   string
		status int
		answer string
		result string // as JSON
	}{
		{
			"Create", func(ctx context.Context, c *api.Client) (any, error) {
				to := bills
				to.TimeoutMinutes = 30
				op, err := c.Create(ctx, to, idemKey, []byte(`{"total":1}`))
				return []any{op.PushOperationKey, op.Status, op.StatusCode, op.Company, op.Connection, op.DataType, op.Requested.Time, op.Completed.IsZero()}, err
			},
			"POST /base/companies/" + company + "/connections/" + connection + "/push/bills timeoutInMinutes=30", idemKey, `{"total":1}`, 200, pending,
			`["` + opKey + `","Pending",202,"` + company + `","` + connection + `","bills","2026-02-03T10:15:05.1234567Z",true]`,
		},
		{
			"Update", func(ctx context.Context, c *api.Client) (any, error) {
				op, err := c.Update(ctx, bills, "bills/41 04?", []byte(`{}`))
				return op.Status, err
			},
			"PUT /base/companies/" + company + "/connections/" + connection + "/push/bills/bills%2F41%2004%3F ", "", `{}`, 200, pending, `"Pending"`,
		},
		{
			"Delete", func(ctx context.Context, c *api.Client) (any, error) {
				op, err := c.Delete(ctx, bills, "4104")
				return op.Status, err
			},
			"DELETE /base/companies/" + company + "/connections/" + connection + "/push/bills/4104 ", "", "", 200, pending, `"Pending"`,
		},
		{
			"Push with the reason of a failure, and an unknown kind of change", func(ctx context.Context, c *api.Client) (any, error) {
				op, err := c.Push(ctx, company, opKey)
				return []any{op.Status, op.ErrorMessage, op.Validation, op.Changes, op.TimeoutMinutes, op.Completed.Time}, err
			},
			"GET /base/companies/" + company + "/push/" + opKey + " ", "", "", 200,
			`{"pushOperationKey":"k","status":"Refused","statusCode":400,"errorMessage":"no","timeoutInMinutes":5,"completedOnUtc":"2026-02-03T10:16:30.25Z",
			"validation":{"errors":[{"itemId":"a","message":"b","validatorName":"c"}],"warnings":null},
			"changes":[{"type":"Merged","recordRef":{"id":"7","dataType":"bills"},"attachmentId":null}],"new":[1]}`,
			`["Refused","no",{"errors":[{"itemId":"a","message":"b","validatorName":"c"}],"warnings":null},
			[{"type":"Merged","recordRef":{"id":"7","dataType":"bills"},"attachmentId":""}],5,"2026-02-03T10:16:30.25Z"]`,
		},
		{
			"Pushes", func(ctx context.Context, c *api.Client) (any, error) {
				list, err := c.Pushes(ctx, company, api.Page{Number: 2, Size: 10, Query: "status=Pending&&dataType=bills", OrderBy: "-requestedOnUtc"})
				return []any{len(list.Results), list.Number, list.Size, list.Total}, err
			},
			"GET /base/companies/" + company + "/push orderBy=-requestedOnUtc&page=2&pageSize=10&query=status%3DPending%26%26dataType%3Dbills", "", "", 200,
			`{"results":[` + pending + `],"pageNumber":2,"pageSize":10,"totalResults":11,"_links":{}}`, `[1,2,10,11]`,
		},
		{
			"Options", func(ctx context.Context, c *api.Client) (any, error) {
				o, err := c.Options(ctx, bills)
				return []any{o.Type, o.Properties["status"].Required, o.Properties["status"].Options[0].Value}, err
			},
			"GET /base/companies/" + company + "/connections/" + connection + "/options/bills ", "", "", 200,
			`{"type":"Object","displayName":"Bill","required":true,"properties":{"status":{"type":"String","required":true,"options":[{"value":"Open","type":"String","displayName":"Open","required":false}],"properties":null}}}`,
			`["Object",true,"Open"]`,
		},
		{
			"Connections", func(ctx context.Context, c *api.Client) (any, error) {
				list, err := c.Connections(ctx, company, api.Page{})
				return []any{list.Results[0].ID, list.Results[0].Status, list.Results[0].DataConnectionErrors[0].StatusText}, err
			},
			"GET /base/companies/" + company + "/connections page=1&pageSize=100", "", "", 200,
			`{"results":[{"id":"` + connection + `","status":"Resting","lastSync":null,"created":"2026-01-01T00:00:00Z","dataConnectionErrors":[{"statusCode":"401","statusText":"Unauthorized","errorMessage":"x"}]}],"pageNumber":1,"pageSize":100,"totalResults":1}`,
			`["` + connection + `","Resting","Unauthorized"]`,
		},
		{
			"DataStatus", func(ctx context.Context, c *api.Client) (any, error) {
				all, err := c.DataStatus(ctx, company)
				return []any{len(all), all["bills"].CurrentStatus, all["bills"].LatestSuccessfulSyncID, all["bills"].LastSuccessfulSync.Time}, err
			},
			"GET /base/companies/" + company + "/dataStatus ", "", "", 200,
			`{"bills":{"dataType":"bills","lastSuccessfulSync":"2022-01-01T00:00:00.000Z","currentStatus":"Complete","latestSyncId":"a","latestSuccessfulSyncId":"b"},"items":null}`,
			`[1,"Complete","b","2022-01-01T00:00:00Z"]`,
		},
		{
			"DataHistory", func(ctx context.Context, c *api.Client) (any, error) {
				list, err := c.DataHistory(ctx, company, api.Page{})
				return []any{list.Results[0].Status, list.Results[0].StatusDescription, list.Results[0].Progress}, err
			},
			"GET /base/companies/" + company + "/data/history page=1&pageSize=100", "", "", 200,
			`{"results":[{"id":"a","companyId":"b","connectionId":"c","dataType":"invoices","status":"RateLimitError","statusDescription":"Paused","requested":"2022-11-14T11:18:37.2798351Z","progress":10,"isCompleted":false,"isErrored":true}],"pageNumber":1,"pageSize":100,"totalResults":1}`,
			`["RateLimitError","Paused",10]`,
		},
		{
			"RefreshAll", func(ctx context.Context, c *api.Client) (any, error) { return nil, c.RefreshAll(ctx, company) },
			"POST /base/companies/" + company + "/data/all ", "", "", 204, ``, `null`,
		},
		{
			"Refresh", func(ctx context.Context, c *api.Client) (any, error) {
				op, err := c.Refresh(ctx, company, "bills", connection)
				return op.ID, err
			},
			"POST /base/companies/" + company + "/data/queue/bills connectionId=" + connection, "", "", 200, `{"id":"d","status":"Queued"}`, `"d"`,
		},
		{
			"Webhooks", func(ctx context.Context, c *api.Client) (any, error) {
				all, err := c.Webhooks(ctx)
				return all, err
			},
			"GET /base/webhooks ", "", "", 200,
			`{"results":[{"id":"w","url":"https://example.com","eventTypes":["bills.write.successful"],"disabled":true,"companyTags":null},{"id":"v","url":"https://example.com/2","disabled":null}]}`,
			`[{"id":"w","url":"https://example.com","disabled":true,"eventTypes":["bills.write.successful"]},{"id":"v","url":"https://example.com/2","disabled":false,"eventTypes":null}]`,
		},
		{
			"CreateWebhook", func(ctx context.Context, c *api.Client) (any, error) {
				w, err := c.CreateWebhook(ctx, api.Webhook{ID: "no", URL: "https://example.com", EventTypes: []string{"read.completed"}, CompanyTags: []string{"a:b"}})
				return w.ID, err
			},
			"POST /base/webhooks ", "", `{"url":"https://example.com","disabled":false,"eventTypes":["read.completed"],"companyTags":["a:b"]}`, 201, `{"id":"w"}`, `"w"`,
		},
		{
			"DeleteWebhook", func(ctx context.Context, c *api.Client) (any, error) { return nil, c.DeleteWebhook(ctx, "w") },
			"DELETE /base/webhooks/w ", "", "", 204, ``, `null`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var request *http.Request
			var body []byte
			c := connect(t, func(w http.ResponseWriter, r *http.Request) {
				request = r
				body, _ = io.ReadAll(r.Body)
				answer(tt.status, tt.answer)(w, r)
			})
			result, err := tt.call(within(t), c.Client)
			if err != nil {
				t.Fatal(err)
			}
			if got := request.Method + " " + request.URL.EscapedPath() + " " + request.URL.RawQuery; got != tt.want {
				t.Errorf("request %s; want %s", got, tt.want)
			}
			headers := map[string]string{
				"Authorization":   "Basic " + base64.StdEncoding.EncodeToString([]byte(apiKey)),
				"Idempotency-Key": tt.key, "Accept": "application/json", "User-Agent": "headgate",
			}
			if tt.body != "" {
				headers["Content-Type"] = "application/json"
			}
			for name, want := range headers {
				if got := request.Header.Get(name); got != want {
					t.Errorf("header %s is %q; want %q", name, got, want)
				}
			}
			if string(body) != tt.body {
				t.Errorf("body %s; want %s", body, tt.body)
			}
			got, err := json.Marshal(result)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(compact(t, tt.result), string(got)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			name, _, _ := strings.Cut(tt.name, " ")
			if got := c.counted(t); len(got) != 1 || got[name+" ok"] != 1 {
				t.Errorf("counted %v; want one %s ok", got, name)
			}
		})
	}
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestUploadAttachment_SendsSameBytesForSameAttachment(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	bodies := map[string]int{}
	var paths, answers []string
	answers = []string{pending, `[]`, ``}
	c := connect(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		paths = append(paths, r.URL.Path)
		body, _ := io.ReadAll(r.Body)
		bodies[string(body)]++
		_, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil {
			t.Error(err)
		}
		part, err := multipart.NewReader(strings.NewReader(string(body)), parameters["boundary"]).NextPart()
		if err != nil {
			t.Error(err)
			return
		}
		content, _ := io.ReadAll(part)
		if part.FileName() != `a "b".pdf` || part.FormName() != "file" || part.Header.Get("Content-Type") != "application/pdf" || string(content) != "%PDF" {
			t.Errorf("part %q %q %v %q", part.FileName(), part.FormName(), part.Header, content)
		}
		answer(200, answers[len(paths)-1])(w, r)
	})
	a := api.Attachment{Name: `a "b".pdf`, ContentType: "application/pdf", Content: []byte("%PDF")}
	costs := bills
	costs.DataType = codat.DataDirectCosts
	for i, to := range []api.Target{bills, bills, costs} {
		op, err := c.UploadAttachment(within(t), to, "7", idemKey, a)
		if want := map[bool]string{true: opKey}[i == 0]; err != nil || op.PushOperationKey != want {
			t.Errorf("call %d = %q, %v; want %q", i, op.PushOperationKey, err, want)
		}
	}
	prefix := "/base/companies/" + company + "/connections/" + connection + "/push/"
	if want := []string{prefix + "bills/7/attachments", prefix + "bills/7/attachments", prefix + "directCosts/7/attachment"}; !cmp.Equal(paths, want) {
		t.Errorf("paths %q; want %q", paths, want)
	}
	if len(bodies) != 1 {
		t.Errorf("%d different bodies; want one", len(bodies))
	}
}

func TestClient_CallsNothingWithWrongArguments(t *testing.T) {
	t.Parallel()
	c := connect(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("called %s", r.URL) })
	up := bills
	up.Connection = ".."
	tests := []struct {
		name string
		call func() error
		want string
	}{
		{"no GUID", func() error { _, err := c.Create(t.Context(), bills, "first", nil); return err }, "not a GUID"},
		{"no key", func() error {
			_, err := c.UploadAttachment(t.Context(), bills, "7", "", api.Attachment{})
			return err
		}, "not a GUID"},
		{"no company", func() error { _, err := c.Push(t.Context(), "", opKey); return err }, "is empty"},
		{"a segment that leaves the path", func() error { _, err := c.Create(t.Context(), up, idemKey, nil); return err }, `".."`},
	}
	for _, tt := range tests {
		if err := tt.call(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q in it", tt.name, err, tt.want)
		}
	}
}

func TestClient_BoundsCallsOfOneCompany(t *testing.T) {
	t.Parallel()
	const limit, rounds = 3, 7
	arrived, leave := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	inside, most := 0, 0
	c := connect(t, func(w http.ResponseWriter, r *http.Request) {
		defer answer(200, pending)(w, r)
		if strings.Contains(r.URL.Path, other) {
			return
		}
		count := func(change int) {
			mu.Lock()
			defer mu.Unlock()
			inside += change
			most = max(most, inside)
		}
		count(1)
		arrived <- struct{}{}
		<-leave
		count(-1)
	}, func(s *api.Settings) { s.CodatConcurrency = limit })
	var wg sync.WaitGroup
	for range limit * rounds {
		wg.Go(func() {
			if _, err := c.Push(within(t), company, opKey); err != nil {
				t.Error(err)
			}
		})
	}
	for range rounds {
		for range limit {
			<-arrived
		}
		if _, err := c.Push(within(t), other, opKey); err != nil {
			t.Errorf("another company: %v", err)
		}
		for range limit {
			leave <- struct{}{}
		}
	}
	wg.Wait()
	if most != limit {
		t.Errorf("%d calls at once; want %d", most, limit)
	}

	// A call that waits for others ends with its context.
	ctx, cancel := context.WithCancel(t.Context())
	for range limit {
		wg.Go(func() {
			if _, err := c.Push(within(t), company, opKey); err != nil {
				t.Error(err)
			}
		})
		<-arrived
	}
	cancel()
	if _, err := c.Push(ctx, company, opKey); !errors.Is(err, context.Canceled) || errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a call that waits = %v; want the end of its context", err)
	}
	for range limit {
		leave <- struct{}{}
	}
	wg.Wait()
}

func TestClient_ReadsKeyAgainWhenItsFileChanges(t *testing.T) {
	t.Parallel()
	keys := make(chan string, 1)
	c := connect(t, func(w http.ResponseWriter, r *http.Request) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Basic "))
		if err != nil {
			t.Error(err)
		}
		keys <- string(key)
		answer(200, `{"results":[]}`)(w, r)
	})
	logged := make(chan string, 10)
	log := zap.New(lines{zapcore.NewNopCore(), logged})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.WatchKey(ctx, log) })
	defer wg.Wait()
	defer stop()

	uses := func(want string) {
		t.Helper()
		if _, err := c.Webhooks(within(t)); err != nil {
			t.Fatal(err)
		}
		if got := <-keys; got != want {
			t.Errorf("it calls with %q; want %q", got, want)
		}
	}
	says := func(want string) {
		t.Helper()
		select {
		case got := <-logged:
			if !strings.Contains(got, want) || strings.Contains(got, "ky-") {
				t.Errorf("it logs %q; want %q, and no key", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("it does not log %q", want)
		}
	}
	uses(apiKey)
	write(t, c.settings.CodatKeyFile, "ky-new\n")
	says("reloaded")
	uses("ky-new")
	write(t, c.settings.CodatKeyFile, "ky-one\nky-two\n")
	says("has 2 keys")
	if err := c.KeyProblem(); err == nil {
		t.Error("no problem with two keys")
	}
	uses("ky-new")
	write(t, c.settings.CodatKeyFile, "ky-third\n")
	says("reloaded")
	uses("ky-third")
	if err := c.KeyProblem(); err != nil {
		t.Error(err)
	}
}

// lines sends each log line to a channel.
type lines struct {
	zapcore.Core
	to chan string
}

func (l lines) Enabled(zapcore.Level) bool { return true }
func (l lines) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, l)
}

func (l lines) Write(e zapcore.Entry, fields []zapcore.Field) error {
	text := e.Message
	for _, f := range fields {
		if err, is := f.Interface.(error); is {
			text += " " + err.Error()
		}
	}
	l.to <- text
	return nil
}
