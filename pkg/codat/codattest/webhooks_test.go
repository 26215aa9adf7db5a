package codattest_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
)

const event = `{"eventType":"read.completed","payload":{}}`

// times are the times of the attempts of all messages, since the morning.
func (s *setup) times() []time.Duration {
	var all []time.Duration
	for _, a := range s.Attempts() {
		all = append(all, a.At.Sub(morning))
	}
	return all
}

func TestWebhooks_AreTriedEightTimesIn28Hours(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	in := s.endpoint(&inbox{status: func(int) int { return 500 }}, codattest.Endpoint{})
	s.Emit("read.completed", company, []byte(event))
	s.clock.Advance(100 * time.Hour)
	want := []time.Duration{
		0, 5 * time.Second, 5*time.Minute + 5*time.Second, 35*time.Minute + 5*time.Second, 2*time.Hour + 35*time.Minute + 5*time.Second,
		7*time.Hour + 35*time.Minute + 5*time.Second, 17*time.Hour + 35*time.Minute + 5*time.Second, 27*time.Hour + 35*time.Minute + 5*time.Second,
	}
	if diff := cmp.Diff(want, s.times()); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	slices.Sort(in.ids)
	if ids := slices.Compact(in.ids); len(ids) != 1 || !strings.HasPrefix(ids[0], "msg_") {
		t.Errorf("ids %q; want one", ids)
	}
	if in.all()[0] != event || in.all()[7] != event {
		t.Errorf("bodies %q; want the bytes of the event", in.all())
	}
}

func TestWebhooks_FollowTheAnswer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status []int // of each request; then 204
		header http.Header
		want   []time.Duration
	}{
		{"a 2xx ends it", []int{299}, nil, []time.Duration{0}},
		{"a redirect is a failure", []int{302}, http.Header{"Location": {"/elsewhere"}}, []time.Duration{0, 5 * time.Second}},
		{"a 410 is tried again like all others", []int{410}, nil, []time.Duration{0, 5 * time.Second}},
		{"a 429 waits a minute", []int{429}, nil, []time.Duration{0, time.Minute}},
		{"Retry-After is followed", []int{503}, http.Header{"Retry-After": {"8"}}, []time.Duration{0, 8 * time.Second}},
		{"but to twice the pause at most", []int{503}, http.Header{"Retry-After": {"3600"}}, []time.Duration{0, 10 * time.Second}},
		{"and never shortens it", []int{503, 503}, http.Header{"Retry-After": {"1"}}, []time.Duration{0, 5 * time.Second, 305 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, codattest.Options{})
			s.endpoint(&inbox{header: tt.header, status: func(n int) int {
				if n <= len(tt.status) {
					return tt.status[n-1]
				}
				return 204
			}}, codattest.Endpoint{})
			s.Emit("read.completed", company, []byte(event))
			s.clock.Advance(100 * time.Hour)
			if diff := cmp.Diff(tt.want, s.times()); diff != "" {
				t.Errorf("attempts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWebhooks_AreDuplicatedAndDisorderedOnRequest(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{Speed: 60, Delivery: func(m codattest.Message) codattest.Delivery {
		switch string(m.Body) {
		case "first":
			return codattest.Delivery{Delay: time.Minute}
		case "second":
			return codattest.Delivery{Copies: 2}
		}
		return codattest.Delivery{}
	}})
	in := s.endpoint(&inbox{}, codattest.Endpoint{})
	for _, body := range []string{"first", "second", "third"} {
		s.Emit("read.completed", company, []byte(body))
	}
	s.clock.Advance(time.Second) // a minute at 60 times the speed
	if got, want := in.all(), []string{"second", "third", "second", "second", "first"}; !cmp.Equal(got, want) {
		t.Errorf("delivered %q; want %q", got, want)
	}
	if in.ids[0] != in.ids[2] || in.ids[0] == in.ids[1] {
		t.Errorf("ids %q: copies have the id of their message", in.ids)
	}
}

func TestWebhooks_EndpointIsDisabledAfterFiveDaysOfFailures(t *testing.T) {
	t.Parallel()
	failing := true
	s := start(t, codattest.Options{})
	in := s.endpoint(&inbox{status: func(int) int {
		if failing {
			return 500
		}
		return 204
	}}, codattest.Endpoint{})
	disabled := func() bool {
		t.Helper()
		all, err := s.client.Webhooks(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("Webhooks = %+v, %v", all, err)
		}
		return all[0].Disabled
	}
	for day := range 5 {
		s.Emit("read.completed", company, []byte(event))
		s.clock.Advance(24 * time.Hour)
		if disabled() {
			t.Fatalf("disabled after %d days", day+1)
		}
	}
	s.clock.Advance(24 * time.Hour) // the attempts that are left
	if !disabled() {
		t.Fatal("not disabled after 6 days")
	}
	s.Emit("read.completed", company, []byte("missed"))
	count := len(in.all())
	s.clock.Advance(1000 * time.Hour)
	if len(in.all()) != count {
		t.Errorf("%d attempts while disabled", len(in.all())-count)
	}
	failing = false
	s.SetDisabled(in.id, false)
	s.Emit("read.completed", company, []byte("next"))
	s.clock.Advance(0)
	got := in.all()[count:]
	if !slices.Contains(got, "next") || slices.Contains(got, "missed") {
		t.Errorf("once enabled: %q; want what was on its way and what is new", got)
	}
}

func TestWebhooks_AttemptsFollowWhenEndpointIsEnabled(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	in := s.endpoint(&inbox{status: func(n int) int { return map[bool]int{true: 500, false: 204}[n == 1] }}, codattest.Endpoint{})
	s.Emit("read.completed", company, []byte(event))
	s.clock.Advance(0)
	s.SetDisabled(in.id, true)
	s.clock.Advance(time.Hour)
	if len(in.all()) != 1 {
		t.Fatalf("%d attempts; want one", len(in.all()))
	}
	s.SetDisabled(in.id, false)
	s.clock.Advance(0)
	if len(in.all()) != 2 {
		t.Errorf("%d attempts; want the second", len(in.all()))
	}
}

func TestWebhooks_AreFiltered(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	s.AddCompany(codattest.Company{ID: connection, Tags: map[string]string{"segment": "florists"}})
	types := s.endpoint(&inbox{}, codattest.Endpoint{EventTypes: []string{"read.completed"}})
	tags := s.endpoint(&inbox{}, codattest.Endpoint{CompanyTags: []string{"a:b", "segment:bakeries"}})
	for _, e := range []struct{ typ, company string }{{"read.completed", company}, {"read.completed", connection}, {"company.created", company}, {"client.rateLimit.reset", ""}} {
		s.Emit(e.typ, e.company, []byte(e.typ+" "+e.company))
	}
	s.clock.Advance(0)
	if got, want := types.all(), []string{"read.completed " + company, "read.completed " + connection}; !cmp.Equal(got, want) {
		t.Errorf("by type: %q; want %q", got, want)
	}
	if got, want := tags.all(), []string{"read.completed " + company, "company.created " + company}; !cmp.Equal(got, want) {
		t.Errorf("by tag: %q; want %q", got, want)
	}
}

func TestWebhooks_AreManagedOverTheAPI(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	wanted := api.Webhook{URL: "http://127.0.0.1:1/", EventTypes: []string{"read.completed"}, CompanyTags: []string{"a:b"}, Disabled: true}
	made, err := s.client.CreateWebhook(t.Context(), wanted)
	if err != nil || made.ID == "" {
		t.Fatalf("CreateWebhook = %+v, %v", made, err)
	}
	wanted.ID = made.ID
	if all, err := s.client.Webhooks(t.Context()); err != nil || !cmp.Equal(all, []api.Webhook{wanted}) || !cmp.Equal(made, wanted) {
		t.Errorf("Webhooks = %+v, %v; want %+v", all, err, wanted)
	}
	if got := s.call("GET", "/webhooks", ""); strings.Contains(got.body, "whsec_") || !strings.HasPrefix(s.Secret(made.ID), "whsec_") {
		t.Errorf("the secret is for the Portal only: %s", got.body)
	}
	if err := s.client.DeleteWebhook(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
	if got := s.call("DELETE", "/webhooks/"+made.ID, ""); got.status != 404 {
		t.Errorf("a second delete: %d; want 404", got.status)
	}
	for n := range 51 {
		got := s.call("POST", "/webhooks", fmt.Sprintf(`{"url":"http://127.0.0.1:1/%d"}`, n))
		if want := map[bool]int{true: 201, false: 400}[n < 50]; got.status != want {
			t.Errorf("consumer %d: %d; want %d", n+1, got.status, want)
		}
	}
	if got := s.call("POST", "/webhooks", `{"eventTypes":[]}`); got.status != 400 {
		t.Errorf("no URL: %d; want 400", got.status)
	}
}

// With the time of the machine, everything happens by itself.
func TestServer_RunsInRealTime(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	s := (&setup{t: t}).start(codattest.Options{Speed: 1000, Outcome: func(codattest.Push) (codattest.Outcome, bool) {
		return codattest.SucceedLate(time.Millisecond, 20*time.Millisecond), true
	}})
	s.endpoint(&inbox{status: func(n int) int {
		if n == 4 {
			close(done)
		}
		return map[bool]int{true: 500, false: 204}[n <= 2]
	}}, codattest.Endpoint{})
	if _, err := s.client.Create(t.Context(), bills, first, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("no four attempts: %+v", s.Attempts())
	}
}
