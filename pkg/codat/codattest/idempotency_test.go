package codattest_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
)

func TestIdempotency_IsAsDocumented(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{})
	s.AddRecord(company, connection, "bills", "7")
	key := func(k string) []string { return []string{"Idempotency-Key", k} }
	for _, tt := range []struct {
		name, method, path, body string
		headers                  []string
		want                     int
		text                     string
	}{
		{"no GUID", "POST", push, `{}`, key("first"), 400, "not a GUID"},
		{"two keys", "POST", push, `{}`, append(key(first), key(second)...), 400, "more than one"},
		{"an update", "PUT", push + "/7", `{}`, key(first), 400, "POST and PATCH only"},
		{"a delete", "DELETE", push + "/7", ``, key(first), 400, "POST and PATCH only"},
		{"a GET", "GET", "/companies/" + company + "/push", ``, key(first), 400, "POST and PATCH only"},
		{"the first call", "POST", push, `{"a":1}`, key(first), 200, `"Pending"`},
		{"another body", "POST", push, `{"a":2}`, key(first), 422, "another request"},
		{"another path", "POST", strings.Replace(push, "bills", "items", 1), `{"a":1}`, key(first), 422, "another request"},
		{"the same key in capitals", "POST", push, `{"a":1}`, key(strings.ToUpper(first)), 200, `"Pending"`},
	} {
		if got := s.call(tt.method, tt.path, tt.body, tt.headers...); got.status != tt.want || !strings.Contains(got.body, tt.text) {
			t.Errorf("%s: %d %s; want %d %s", tt.name, got.status, got.body, tt.want, tt.text)
		}
	}
	if len(s.Pushes()) != 1 {
		t.Errorf("%d pushes; want one", len(s.Pushes()))
	}
}

func TestIdempotency_AnswersAreRemembered90Minutes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status     int
		remembered bool
	}{{200, true}, {400, true}, {422, true}, {500, true}, {503, true}, {429, false}} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			t.Parallel()
			s := start(t, codattest.Options{Outcome: func(p codattest.Push) (codattest.Outcome, bool) {
				if p.Number > 1 || tt.status == 200 {
					return codattest.StayPending(), true
				}
				return codattest.Outcome{Refuse: tt.status, RetryAfter: 1500 * time.Millisecond}, true
			}})
			create := func() raw { return s.call("POST", push, `{}`, "Idempotency-Key", first) }
			before := create()
			if before.status != tt.status {
				t.Fatalf("the first answer is %d; want %d", before.status, tt.status)
			}
			if wait := before.header.Get("Retry-After"); tt.status == 429 && wait != "2" {
				t.Errorf("Retry-After %q; want 2", wait)
			}
			s.clock.Advance(90*time.Minute - time.Nanosecond)
			if again := create(); (again.status == before.status && again.body == before.body) != tt.remembered {
				t.Errorf("within 90 minutes: %d %s; remembered: want %v", again.status, again.body, tt.remembered)
			}
			s.clock.Advance(time.Nanosecond)
			if !tt.remembered {
				return
			}
			if after := create(); after.status != 200 || after.body == before.body {
				t.Errorf("after 90 minutes: %d %s; want a new push", after.status, after.body)
			}
		})
	}
}

func TestIdempotency_ConflictsWhileTheFirstCallRuns(t *testing.T) {
	t.Parallel()
	hold, asked := make(chan struct{}), make(chan struct{}, 1)
	s := start(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) {
		asked <- struct{}{}
		return codattest.Outcome{Hold: hold}, true
	}})
	answer := make(chan raw, 1)
	go func() { answer <- s.call("POST", push, `{}`, "Idempotency-Key", first) }()
	<-asked
	if _, err := s.client.Create(t.Context(), bills, first, []byte(`{}`)); !errors.Is(err, api.ErrInProgress) {
		t.Errorf("the second call = %v; want ErrInProgress", err)
	}
	close(hold)
	before := <-answer
	if again := s.call("POST", push, `{}`, "Idempotency-Key", first); before.status != 200 || again.body != before.body {
		t.Errorf("afterwards: %d %s; want %d %s", again.status, again.body, before.status, before.body)
	}
}

// What a client sees of a push whose answer is lost, and of one that is made although the answer is a 500.
func TestIdempotency_AnswerThatIsLost(t *testing.T) {
	t.Parallel()
	s := start(t, codattest.Options{Outcome: func(p codattest.Push) (codattest.Outcome, bool) {
		if p.IdempotencyKey == first {
			return codattest.Outcome{HangUp: true}, true
		}
		return codattest.Outcome{Refuse: 500, Made: true}, true
	}})
	_, err := s.client.Create(t.Context(), bills, first, []byte(`{}`))
	if err == nil { // net/http has sent it again, because it has an idempotency key
		t.Log("the transport repeated the call")
	} else if !errors.Is(err, api.ErrOutcomeUnknown) {
		t.Errorf("Create = %v; want an unknown outcome", err)
	}
	op, err := s.client.Create(t.Context(), bills, first, []byte(`{}`))
	if pushes := s.Pushes(); err != nil || len(pushes) != 1 || pushes[0].Key != op.PushOperationKey {
		t.Errorf("again: %+v, %v; want the push that was made: %+v", op, err, pushes)
	}
	for range 2 {
		if _, err := s.client.Create(t.Context(), bills, second, []byte(`{}`)); !errors.Is(err, api.ErrOutcomeUnknown) {
			t.Errorf("a 500 = %v; want an unknown outcome", err)
		}
	}
	if list, err := s.client.Pushes(t.Context(), company, api.Page{}); err != nil || list.Total != 2 {
		t.Errorf("the history has %d pushes, %v; want both", list.Total, err)
	}
}

// The memory behaves like a map from key to request, answer and time, whatever comes in whatever order.
func TestIdempotency_MemoryIsLikeItsModel(t *testing.T) {
	t.Parallel()
	statuses := map[string]int{"a": 200, "b": 400, "c": 500, "d": 429}
	s := start(t, codattest.Options{Quota: 1 << 40, Outcome: func(p codattest.Push) (codattest.Outcome, bool) {
		status := statuses[string(p.Body[2])]
		if status == 200 {
			return codattest.StayPending(), true
		}
		return codattest.Refuse(status, ""), true
	}})
	type answer struct {
		request string
		raw
		until time.Time
	}
	model, keys := map[string]answer{}, 0
	rapid.Check(t, func(t *rapid.T) {
		keys++ // so that runs share no keys
		made := len(s.Pushes())
		t.Repeat(map[string]func(*rapid.T){
			"post": func(t *rapid.T) {
				key := fmt.Sprintf("%08x-0000-4000-8000-%012x", keys, rapid.IntRange(0, 2).Draw(t, "key"))
				body := `{"` + rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "body") + `":1}`
				got := s.call("POST", push, body, "Idempotency-Key", key)
				known, is := model[key]
				now := s.clock.Now()
				switch {
				case is && now.Before(known.until) && known.request == body:
					if got.status != known.status || got.body != known.body {
						t.Fatalf("again: %d %s; want %d %s", got.status, got.body, known.status, known.body)
					}
				case is && now.Before(known.until):
					if got.status != http.StatusUnprocessableEntity {
						t.Fatalf("another body: %d; want 422", got.status)
					}
				default:
					if want := statuses[body[2:3]]; got.status != want {
						t.Fatalf("a new call: %d; want %d", got.status, want)
					}
					if got.status == 200 {
						made++
					}
					if got.status == 429 {
						delete(model, key)
					} else {
						model[key] = answer{body, got, now.Add(90 * time.Minute)}
					}
				}
			},
			"wait": func(t *rapid.T) {
				s.clock.Advance(time.Duration(rapid.IntRange(1, 60).Draw(t, "minutes")) * time.Minute)
			},
			"": func(t *rapid.T) {
				if got := len(s.Pushes()); got != made {
					t.Fatalf("%d pushes; want %d", got, made)
				}
			},
		})
	})
}
