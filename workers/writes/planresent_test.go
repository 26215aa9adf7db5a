package writes

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// net/http sends a create again when the connection breaks that it has reused. The answer to the second request, a 429, does not
// say that the first has made nothing.
func TestPromise9_AStepIsMadeOnceWhenItsRequestIsSentTwice(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.Succeed(time.Millisecond) })
	w.stop()
	target, err := url.Parse(w.codat.URL())
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	var posts atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			forward.ServeHTTP(rw, r)
			return
		}
		switch posts.Add(1) {
		case 1:
			forward.ServeHTTP(httptest.NewRecorder(), r) // the stand-in makes the push operation
			panic(http.ErrAbortHandler)                  // and its answer is lost
		case 2:
			rw.WriteHeader(http.StatusTooManyRequests)
		default:
			forward.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(proxy.Close)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(codattest.DefaultKey), 0o600); err != nil {
		t.Fatal(err)
	}
	calls, err := api.New(api.Settings{CodatKeyFile: key, CodatURL: proxy.URL, CodatTimeout: 10 * time.Second, CodatConcurrency: 4}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(calls.Close)
	if _, err := calls.Pushes(t.Context(), "company-0", api.Page{}); err != nil { // its connection is reused
		t.Fatal(err)
	}
	p := newPlans(w.plans, w.store, calls, newStepEnds(), testPace)
	submitted := plan.Plan{ID: "plan", Company: "company-0", Connection: "connection", Steps: []plan.Step{
		{Name: "step-0", Kind: plan.Create, DataType: codat.DataCustomers, Body: []byte(`{"ref":"plan/step-0"}`)},
	}}
	w.mu.Lock()
	w.byID[submitted.ID] = submitted
	w.mu.Unlock()
	text, err := json.Marshal(submitted)
	if err == nil {
		_, err = p.submit(t.Context(), text)
	}
	if err != nil {
		t.Fatal(err)
	}
	streamtest.Wait(t, func() bool {
		if _, err := p.advance(context.WithoutCancel(t.Context()), nil, submitted.ID); err != nil {
			t.Fatal(err)
		}
		r, err := plan.Get(t.Context(), w.srv.JS, source, submitted.ID)
		return err == nil && r.Status == plan.StatusDone
	}, "the plan to be done")
	if made := w.codat.Pushes(); len(made) != 1 || posts.Load() < 3 {
		t.Errorf("%d requests made %d push operations; want at least 3 and 1", posts.Load(), len(made))
	}
}
