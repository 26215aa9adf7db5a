package relay_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	svix "github.com/svix/svix-webhooks/go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = streamtest.Source

var nopLog = zap.NewNop()

// newSecret returns a new signing secret.
func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return "whsec_" + base64.StdEncoding.EncodeToString(b)
}

// put writes or replaces a file and returns its name: written in place, it can be read while it is empty.
func put(t testing.TB, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
	return name
}

// A request is one that an endpoint has received.
type request struct {
	id     string
	header http.Header
	body   []byte
	at     time.Time
}

// An endpoint keeps what it receives, and answers as it is told to.
type endpoint struct {
	*httptest.Server
	mu     sync.Mutex
	got    []request
	times  map[string]int // by id
	answer func(w http.ResponseWriter, r request, times int)
}

// newEndpoint starts an endpoint. answer is called with the number of times that an id has come; nil answers 204.
func newEndpoint(t testing.TB, answer func(w http.ResponseWriter, r request, times int)) *endpoint {
	t.Helper()
	e := &endpoint{answer: answer, times: map[string]int{}}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	got := request{r.Header.Get("webhook-id"), r.Header, body, time.Now()}
	e.mu.Lock()
	e.got = append(e.got, got)
	e.times[got.id]++
	times := e.times[got.id]
	e.mu.Unlock()
	if e.answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	e.answer(w, got, times)
}

// requests returns what has come so far.
func (e *endpoint) requests() []request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// count returns how many requests have come so far.
func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.got)
}

// wait returns the requests when n have come.
func (e *endpoint) wait(t testing.TB, n int) []request {
	t.Helper()
	streamtest.Wait(t, func() bool { return e.count() >= n }, fmt.Sprintf("%d requests", n))
	return e.requests()
}

// A bench is a server and the file of routes of a test.
type bench struct {
	*streamtest.Server
	folder, file, secret string
	logs                 *observer.ObservedLogs
}

// newBench writes a file with the routes and provisions their workers. In the text SECRET is the file of a secret.
func newBench(t testing.TB, routes string) *bench {
	t.Helper()
	b := &bench{folder: t.TempDir(), secret: newSecret()}
	secrets := put(t, filepath.Join(b.folder, "secret"), b.secret+"\n")
	b.file = put(t, filepath.Join(b.folder, "routes.yml"), "routes:\n"+strings.ReplaceAll(routes, "SECRET", secrets))
	read, err := relay.ReadRoutes(b.file)
	if err != nil {
		t.Fatal(err)
	}
	var specs []stream.WorkerSpec
	for _, r := range read {
		specs = append(specs, r.Spec())
	}
	b.Server = streamtest.New(t, specs...)
	return b
}

// local is a route to an endpoint on this machine.
func local(name, url, more string) string {
	return fmt.Sprintf("- {name: %s, url: %q, secret_files: [SECRET], allow_private: [127.0.0.0/8]%s}\n", name, url, more)
}

// start runs a route until the test ends, and returns its process.
func (b *bench) start(t testing.TB, route string, with ...func(*relay.Settings)) *process.Process {
	t.Helper()
	s := &relay.Settings{
		Settings: workers.Settings{NATS: stream.NATS{NATSURL: b.URL}, Source: source, Grace: 20 * time.Second, BackoffMin: 20 * time.Millisecond, BackoffMax: 20 * time.Millisecond},
		Routes:   b.file, Route: route,
	}
	s.AdminListen = ":9090"
	for _, set := range with {
		set(s)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	b.logs = logs
	p := process.New("worker-relay", zap.New(core))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx, s, p) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	})
	return p
}

// message returns an event as the ingress stores it.
func message(t testing.TB, id string, body []byte) *stream.Stored {
	t.Helper()
	head, err := codat.Read(body)
	if err != nil {
		t.Fatal(err)
	}
	return &stream.Stored{ID: id, Head: head, Received: time.Now(), ContentType: "application/json; charset=utf-8"}
}

func (b *bench) post(t testing.TB, id string, body []byte) {
	t.Helper()
	m, err := source.Message(*message(t, id, body), body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS.PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
}

// settled waits until a route's worker has settled every event.
func (b *bench) settled(t testing.TB, route string) {
	t.Helper()
	streamtest.WaitSettled(t, b.JS, source.Stream(), "relay-"+route)
	streamtest.WaitSettled(t, b.JS, source.ParkedStream(), "relay-"+route)
}

// letters returns the dead letters by their webhook-ids.
func (b *bench) letters(t testing.TB) map[string]deadletter.Letter {
	t.Helper()
	all := map[string]deadletter.Letter{}
	if err := deadletter.List(t.Context(), b.JS, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		all[l.WebhookID] = l
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// value returns the sum of a metric's series.
func value(t testing.TB, p *process.Process, name string) (sum float64) {
	t.Helper()
	families, err := p.Gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// event is a body of at least size bytes, with white space and escapes that a decoder would not keep.
func event(typ string, size int) []byte {
	body := fmt.Appendf(nil, "{ \"eventType\":%q,\t\"id\" : \"e\",\n \"payload\":{\"b\":1.0,\"a\":\"\\u00e9 é\",\"x\":%q} }\n", typ, strings.Repeat("x", size))
	return body
}

// Each request is the event byte for byte, with its own webhook-id, and a receiver with any of the secrets verifies it by the
// library of Standard Webhooks' first sender.
func TestRun_SignsWhatTheLibraryVerifies(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, nil)
	b := newBench(t, local("crm", e.URL+"/in?a=b", ", authorization_file: AUTH"))
	second := newSecret()
	put(t, filepath.Join(b.folder, "secret"), b.secret+"\n"+second+"\n")
	text, err := os.ReadFile(b.file)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b.file, strings.ReplaceAll(string(text), "AUTH", put(t, filepath.Join(b.folder, "auth"), "Basic me:pass\n")))
	b.start(t, "crm")
	bodies := map[string][]byte{"msg_small": event("nobody.knows.it", 600), "msg_large": event("connection.created", 1<<20), "msg_legacy": []byte(`{"RuleType":"Push Operation Timed Out","Data":[1]}`)}
	for id, body := range bodies {
		b.post(t, id, body)
	}
	b.settled(t, "crm")
	got := e.requests()
	if len(got) != 3 {
		t.Fatalf("%d requests; want 3", len(got))
	}
	for _, r := range got {
		if !bytes.Equal(r.body, bodies[r.id]) {
			t.Errorf("%s: the body of %d bytes is not what was stored, %d bytes", r.id, len(r.body), len(bodies[r.id]))
		}
		for _, secret := range []string{b.secret, second} {
			receiver, err := svix.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := receiver.Verify(r.body, r.header); err != nil {
				t.Errorf("%s: Verify = %v", r.id, err)
			}
		}
		want := map[string]string{"Content-Type": "application/json; charset=utf-8", "Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("me:pass"))}
		for name, value := range want {
			if got := r.header.Get(name); got != value {
				t.Errorf("%s: the header %s is %q; want %q", r.id, name, got, value)
			}
		}
		if at, err := strconv.ParseInt(r.header.Get("webhook-timestamp"), 10, 64); err != nil || time.Since(time.Unix(at, 0)) > time.Minute {
			t.Errorf("%s: the time is %q; want that of the request", r.id, r.header.Get("webhook-timestamp"))
		}
		for name := range r.header {
			if !slices.Contains([]string{"Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "User-Agent", "Webhook-Id", "Webhook-Signature", "Webhook-Timestamp"}, name) {
				t.Errorf("%s: there is a header %s", r.id, name)
			}
		}
	}
}

// What each status means: with one attempt, an event whose attempt is counted is a dead letter at once.
func TestRun_OutcomeOfEachStatus(t *testing.T) {
	t.Parallel()
	const leak = "the payload of a customer"
	var elsewhere atomic.Int64
	other := newEndpoint(t, func(w http.ResponseWriter, _ request, _ int) { elsewhere.Add(1); w.WriteHeader(204) })
	e := newEndpoint(t, func(w http.ResponseWriter, r request, times int) {
		status, err := strconv.Atoi(strings.TrimPrefix(r.id, "msg_"))
		if err != nil || times > 1 {
			status = http.StatusOK
		}
		if status/100 == 3 {
			w.Header().Set("Location", other.URL)
		}
		w.WriteHeader(status)
		if status != 204 && status != 304 {
			fmt.Fprintf(w, "%s\n\x1b[2J%s", leak, strings.Repeat("z", 1000))
		}
	})
	b := newBench(t, local("crm", e.URL, ""))
	b.start(t, "crm", func(s *relay.Settings) { s.Attempts = 1 })
	const done, again = "done", "again"
	statuses := map[int]string{
		200: done, 201: done, 204: done, 299: done,
		301: workers.CauseAttempts, 302: workers.CauseAttempts, 304: workers.CauseAttempts, 307: workers.CauseAttempts, 308: workers.CauseAttempts,
		400: workers.CausePermanent, 401: workers.CausePermanent, 403: workers.CausePermanent, 404: workers.CausePermanent, 409: workers.CausePermanent,
		410: workers.CausePermanent, 413: workers.CausePermanent, 422: workers.CausePermanent, 451: workers.CausePermanent,
		408: workers.CauseAttempts, 425: workers.CauseAttempts,
		429: again, 500: again, 502: again, 503: again, 504: again, 599: again,
	}
	for status := range statuses {
		b.post(t, fmt.Sprintf("msg_%d", status), event("connection.created", 1))
		b.settled(t, "crm") // one after the other: three unavailable ones in a row would pause the route
	}
	letters, times := b.letters(t), map[string]int{}
	for _, r := range e.requests() {
		times[r.id]++
	}
	for status, want := range statuses {
		id := fmt.Sprintf("msg_%d", status)
		letter, dead := letters[id]
		got := done
		switch {
		case dead:
			got = letter.Cause
		case times[id] == 2:
			got = again
		}
		if got != want {
			t.Errorf("%d: %s after %d requests; want %s", status, got, times[id], want)
		}
		if !dead {
			continue
		}
		if !strings.Contains(letter.LastError, strconv.Itoa(status)) || strings.Contains(letter.LastError, leak) {
			t.Errorf("%d: the error is %q; want the status in it, and not the answer", status, letter.LastError)
		}
		if detail := letter.Header.Get(deadletter.HeaderDetail); status != 304 && (!strings.HasPrefix(detail, `"`+leak+`\n\x1b[2Jzz`) || strings.Count(detail, "z") > 256) {
			t.Errorf("%d: the letter has of the answer %q; want the first 256 bytes, escaped", status, detail)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
	for _, line := range b.logs.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, leak) {
			t.Errorf("the log has the answer: %s", text)
		}
	}
}

// While an endpoint has asked for a pause, the route sends nothing.
func TestRun_HonoursRetryAfter(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, func(w http.ResponseWriter, r request, times int) {
				if r.id == "msg_1" && times == 1 {
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(status)
				}
			})
			b := newBench(t, local("crm", e.URL, ""))
			b.start(t, "crm", func(s *relay.Settings) { s.Attempts = 1 })
			b.post(t, "msg_1", event("connection.created", 1))
			first := e.wait(t, 1)[0]
			// The route's pause began when the answer came, which the worker says by giving the event back.
			streamtest.Wait(t, func() bool { return b.logs.FilterMessage("event retry").Len() > 0 }, "the event waits")
			b.post(t, "msg_2", event("connection.created", 1))
			b.settled(t, "crm")
			for _, r := range e.requests()[1:] {
				if after := r.at.Sub(first.at); after < time.Second {
					t.Errorf("%s was sent %s after the endpoint had asked for a second", r.id, after)
				}
			}
			if letters := b.letters(t); len(letters) > 0 {
				t.Errorf("there are dead letters: %v", letters)
			}
		})
	}
}

// A route whose endpoint never answers delays no other route.
func TestRun_RouteThatHangsDelaysNoOther(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	hangs := newEndpoint(t, func(http.ResponseWriter, request, int) { <-release })
	defer close(release)
	e := newEndpoint(t, nil)
	b := newBench(t, local("hangs", hangs.URL, ", concurrency: 2, timeout: 5m")+local("crm", e.URL, ""))
	b.start(t, "hangs", func(s *relay.Settings) { s.Grace = time.Millisecond })
	b.start(t, "crm")
	for i := range 200 {
		b.post(t, fmt.Sprintf("msg_%d", i), event("connection.created", 1))
	}
	b.settled(t, "crm")
	if n := len(e.requests()); n != 200 {
		t.Errorf("%d requests; want 200", n)
	}
	hangs.wait(t, 1)
}

// An event to which the endpoint always answers 500 does not stop the others, and ends as a dead letter.
func TestRun_PoisonEventBlocksNothing(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, func(w http.ResponseWriter, r request, _ int) {
		if strings.HasPrefix(r.id, "poison") {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	b := newBench(t, local("crm", e.URL, ""))
	b.start(t, "crm", func(s *relay.Settings) { s.Attempts = 3 })
	for i := range 2 { // three in a row would pause the route
		b.post(t, fmt.Sprintf("poison_%d", i), event("connection.created", 1))
	}
	posted := 0
	streamtest.Wait(t, func() bool {
		b.post(t, fmt.Sprintf("msg_%d", posted), event("connection.created", 1))
		posted++
		return len(b.letters(t)) == 2
	}, "the poison events are dead letters")
	b.settled(t, "crm")
	ids := map[string]bool{}
	for _, r := range e.requests() {
		ids[r.id] = true
	}
	if len(ids) != posted+2 {
		t.Errorf("%d events were sent; want %d", len(ids), posted+2)
	}
	for id, letter := range b.letters(t) {
		if !strings.HasPrefix(id, "poison") || letter.Cause != workers.CauseAttempts {
			t.Errorf("%s is a dead letter, cause %s", id, letter.Cause)
		}
	}
}

// outage posts n events to a route whose endpoint is down, and every fifth to no company of the route; then the endpoint comes back.
func outage(t *testing.T, n, concurrency int) {
	t.Helper()
	var up atomic.Bool
	e := newEndpoint(t, func(w http.ResponseWriter, _ request, _ int) {
		if !up.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	b := newBench(t, local("crm", e.URL, fmt.Sprintf(", concurrency: %d, companies: [ONE]", concurrency)))
	// Each attempt that counts would be the last.
	p := b.start(t, "crm", func(s *relay.Settings) { s.Attempts = 1 })
	for i := range n {
		company := "one"
		if i%5 == 0 {
			company = "other"
		}
		body := fmt.Appendf(nil, `{"eventType":"company.product.added","payload":{"referenceCompany":{"id":%q}}}`, company)
		m, err := source.Message(*message(t, fmt.Sprintf("msg_%d", i), body), body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.JS.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
		if b.JS.PublishAsyncPending() > 1000 {
			<-b.JS.PublishAsyncComplete()
		}
	}
	<-b.JS.PublishAsyncComplete()
	streamtest.Wait(t, func() bool { return value(t, p, "headgate_worker_paused_seconds") > 0 }, "the route pauses")
	failed := len(e.requests())
	up.Store(true)
	for i := 1000; i < n/5*4; i += 1000 { // each may take the patience of a condition
		streamtest.Wait(t, func() bool { return e.count() >= failed+i }, "the next thousand events")
	}
	b.settled(t, "crm")

	delivered := map[string]int{}
	for _, r := range e.requests()[failed:] {
		delivered[r.id]++
	}
	duplicates := 0
	for i := range n {
		times := delivered[fmt.Sprintf("msg_%d", i)]
		if want := i%5 != 0; (times > 0) != want {
			t.Fatalf("msg_%d was delivered %d times; want it: %v", i, times, want)
		}
		duplicates += max(times-1, 0)
	}
	t.Logf("%d requests while it was down; %d delivered, %d of them more than once", failed, len(delivered), duplicates)
	if duplicates > failed+concurrency { // a request that was answered 502 may be counted as delivered when it came as the endpoint came back
		t.Errorf("%d duplicates; want as many as requests were in flight at most", duplicates)
	}
	if letters := b.letters(t); len(letters) > 0 {
		t.Errorf("%d events are dead letters", len(letters))
	}
}

// While an endpoint is down no attempt is counted, whatever other events the route skips; when it is back, it gets each event.
func TestRun_EndpointThatIsDownCostsNoEvent(t *testing.T) {
	t.Parallel()
	outage(t, 2000, 16)
}

// A secret that is added to the file signs without a restart, and the one that is removed does not any more.
func TestRun_RotatesSecretsByFile(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, nil)
	b := newBench(t, local("crm", e.URL, ""))
	p := b.start(t, "crm")
	verifies := func(secret string) bool {
		t.Helper()
		before := len(e.requests())
		b.post(t, fmt.Sprintf("msg_%d", before), event("connection.created", 1))
		r := e.wait(t, before+1)[before]
		receiver, err := svix.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		return receiver.Verify(r.body, r.header) == nil
	}
	file, next := filepath.Join(b.folder, "secret"), newSecret()
	if !verifies(b.secret) || verifies(next) {
		t.Fatal("the requests are not signed with the secret in the file")
	}
	put(t, file, b.secret+"\n"+next+"\n")
	streamtest.Wait(t, func() bool { return verifies(next) }, "the new secret signs")
	if !verifies(b.secret) {
		t.Error("the old secret does not sign while both are in the file")
	}
	put(t, file, "whsec_cut")
	streamtest.Wait(t, func() bool {
		return b.logs.FilterMessage("a file of the route cannot be used: its previous content stays in use").Len() > 0
	}, "the log says that the file cannot be used")
	if !verifies(b.secret) {
		t.Error("a file that cannot be used has ended the secrets that it had")
	}
	if n := value(t, p, "headgate_relay_file_problems"); n != 1 {
		t.Errorf("the metric has %v files that cannot be used; want 1", n)
	}
	put(t, file, next+"\n")
	streamtest.Wait(t, func() bool { return !verifies(b.secret) }, "the old secret does not sign any more")
	if !verifies(next) {
		t.Error("the new secret does not sign")
	}
	for _, line := range b.logs.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, b.secret[6:]) || strings.Contains(text, next[6:]) {
			t.Errorf("the log has a secret: %s", line.Message)
		}
	}
}

// A route sends the events of its types, companies and tags, and is done with the others.
func TestRun_ChoosesEvents(t *testing.T) {
	t.Parallel()
	tagged := func(typ, tags string) []byte {
		return fmt.Appendf(nil, `{"eventType":%q,"payload":{"referenceCompany":{"id":"c","tags":%s}}}`, typ, tags)
	}
	company, ok := examples.Of("company.created")
	if !ok {
		t.Fatal("there is no example")
	}
	tag := ""
	if i := bytes.Index(company.Body, []byte(`"tags": {`)); i >= 0 { // the first tag of the example
		fields := strings.Split(string(company.Body[i+len(`"tags": {`):]), `"`)
		tag = fields[1] + ":" + fields[3]
	}
	for _, tt := range []struct {
		name, keys string
		body       []byte
		want       bool
	}{
		{"all", "", tagged("a.b", `{}`), true},
		{"its type", ", types: [a.b, \"c.>\"]", tagged("c.d.e", `{}`), true},
		{"another type", ", types: [a.b, \"c.>\"]", tagged("a.c", `{}`), false},
		{"its company", ", companies: [x, C]", tagged("a.b", `{}`), true},
		{"another company", ", companies: [x]", tagged("a.b", `{}`), false},
		{"its tag", ", company_tags: [\"team:a\", \"region:uk\"]", tagged("a.b", `{"region":"uk"}`), true},
		{"another value", ", company_tags: [\"region:uk\"]", tagged("a.b", `{"region":"us"}`), false},
		{"no tags", ", company_tags: [\"region:uk\"]", []byte(`{"eventType":"a.b","payload":[1]}`), false},
		{"tags that are no text", ", company_tags: [\"region:uk\"]", tagged("a.b", `{"region":1}`), false},
		{"tags that are no text and not asked for", "", tagged("a.b", `{"region":1}`), true},
		{"a tag of the company that the event is about", ", company_tags: [\"" + tag + "\"]", company.Body, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, nil)
			b := newBench(t, local("crm", e.URL, tt.keys))
			b.start(t, "crm")
			b.post(t, "msg_1", tt.body)
			b.settled(t, "crm")
			if got := len(e.requests()) == 1; got != tt.want {
				t.Errorf("it was sent: %v; want %v", got, tt.want)
			}
		})
	}
}

// A route that may not connect to its endpoint, or cannot verify it, waits and loses nothing.
func TestRun_SendsNothingToAnEndpointThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	plain, secure := httptest.NewServer(count), httptest.NewUnstartedServer(count)
	secure.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	secure.StartTLS()
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(plain.URL, "http://"), ":")
	for _, tt := range []struct{ name, route, cause string }{
		{"a private address", fmt.Sprintf("- {name: r, url: %q, secret_files: [SECRET]}\n", secure.URL), "127.0.0.1 is not connected to: it is not a public address: list its range in allow_private"},
		{"a name of this machine", fmt.Sprintf("- {name: r, url: %q, secret_files: [SECRET], allow_private: [10.0.0.0/8]}\n", "http://localhost:"+port), "it is not a public address"},
		{"another range", fmt.Sprintf("- {name: r, url: %q, secret_files: [SECRET], allow_private: [127.1.0.0/16]}\n", plain.URL), "it is not a public address"},
		{"a certificate that nobody has signed", fmt.Sprintf("- {name: r, url: %q, secret_files: [SECRET], allow_private: [127.0.0.0/8]}\n", secure.URL), "x509"},
		{"a name without an address", "- {name: r, url: \"https://endpoint.invalid\", secret_files: [SECRET]}\n", "endpoint.invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.route)
			b.start(t, "r", func(s *relay.Settings) { s.Attempts = 1 })
			b.post(t, "msg_1", event("connection.created", 1))
			retried := func() bool { return b.logs.FilterMessage("event retry").Len() > 1 }
			streamtest.Wait(t, retried, "the event is tried again")
			if cause := fmt.Sprint(b.logs.FilterMessage("event retry").All()[0].ContextMap()["cause"]); !strings.Contains(cause, tt.cause) {
				t.Errorf("the cause is %q; want %q in it", cause, tt.cause)
			}
			if n := requests.Load(); n != 0 {
				t.Errorf("%d requests were made", n)
			}
			if letters := b.letters(t); len(letters) > 0 {
				t.Errorf("there are dead letters: %v", letters)
			}
		})
	}
}

// The rate bounds the requests of a route.
func TestRun_KeepsTheRate(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, nil)
	b := newBench(t, local("crm", e.URL, ", rate: 20"))
	for i := range 11 {
		b.post(t, fmt.Sprintf("msg_%d", i), event("connection.created", 1))
	}
	b.start(t, "crm")
	b.settled(t, "crm")
	got := e.requests()
	if took := got[len(got)-1].at.Sub(got[0].at); len(got) != 11 || took < 400*time.Millisecond {
		t.Errorf("%d requests in %s; want 11 in half a second", len(got), took)
	}
}

// A message of another publisher has the content type of its body, JSON, and an id that receivers can keep.
func TestRun_SendsWhatAnotherPublisherStored(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, nil)
	b := newBench(t, local("crm", e.URL, ""))
	b.start(t, "crm")
	if _, err := b.JS.Publish(t.Context(), "codat.events.a.b", event("a.b", 1), jetstream.WithExpectStream(source.Stream())); err != nil {
		t.Fatal(err)
	}
	r := e.wait(t, 1)[0]
	if !strings.HasPrefix(r.id, "sequence-1-") || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("the id is %q, and the content type %q", r.id, r.header.Get("Content-Type"))
	}
}
